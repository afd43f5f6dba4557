"""Reads and writes weights: our checkpoints, those of other tools, run folders, provenance."""
