"""Questions about a network or a file: explain, compare, sensitivity, bench."""
