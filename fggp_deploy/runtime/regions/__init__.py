"""Regions: connected layers of a graph as kernel programs, and as single nodes of a graph."""
