"""Where a job stands: in numbers, in words, and as an exit code.

`read_status`, `summarize` and `read_history` are what other rooms ask for.
"""
