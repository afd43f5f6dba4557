"""Pages: a report as HTML, Markdown and charts, and the files of a report."""
