"""What a person is told about a run: failures by code, and where to look."""
