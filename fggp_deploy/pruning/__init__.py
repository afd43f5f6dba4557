"""Choosing which weights to remove: masks, criteria, schedules, methods and the Pruner."""
