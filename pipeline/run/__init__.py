"""One run from start to end, and what can be done with a job without a run. Read `run.py` first."""
