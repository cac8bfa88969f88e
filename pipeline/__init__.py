"""Runs a paid workflow over every row of a sheet: each row sent at most once, every answer kept."""

__version__ = "0.1.0"
