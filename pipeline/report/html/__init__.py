"""report.html: one page that can be forwarded."""
