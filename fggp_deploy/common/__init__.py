"""Utilities for all packages: atomic files, timing, option rules, user code, plugins."""
