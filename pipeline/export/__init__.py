"""The sheet going home with its answers."""
