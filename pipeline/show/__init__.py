"""Shows rows for reading: what was sent, the answer and its parts, and every request."""
