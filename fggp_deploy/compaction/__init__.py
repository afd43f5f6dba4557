"""Compaction: removes dead channels from a graph, exactly."""
