"""What failed and why, for people and for the next command."""
