"""What any package may use and what uses none of them: atomic files, timing, user code, plugins."""
