"""Measurements without verdicts: accuracy, latency, memory, size, profiles."""
