"""Analyses of a network or a file: explain, compare, sensitivity, bench."""
