"""Sheets of every kind, read as text: what stands in the cell is what is sent."""
