"""What failed, why, and the command that sends it again."""
