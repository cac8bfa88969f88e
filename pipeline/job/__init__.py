"""What the user wrote, and where the run keeps its files.

`find_job`, `load_spec`, `find_access` and `RunFolder` are what other rooms ask for.
"""
