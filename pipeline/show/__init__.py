"""Shows rows for reading: what was sent, the answer and its parts, and every request."""

SEED = 1
"""The seed of a sample, unless the user gives one. It never changes, so that a repeated command
shows the same rows."""
