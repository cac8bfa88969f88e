"""The job file, the key, and the run folder.

Other rooms use `find_job`, `load_spec`, `find_access` and `RunFolder`.
"""
