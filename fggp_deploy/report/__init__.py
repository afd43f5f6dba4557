"""Verification reports as HTML, Markdown and charts."""
