"""The fggp-deploy command line: one Typer command a file; parse, call, render."""
