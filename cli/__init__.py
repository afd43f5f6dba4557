"""The fggp-deploy command line: one Typer command per file, which parses, calls and renders."""
