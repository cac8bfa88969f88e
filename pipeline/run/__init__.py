"""One run from start to end. Read `run.py` first."""
