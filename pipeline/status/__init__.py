"""The state of a job: in numbers, in sentences, and as an exit code.

Other rooms use `read_status`, `summarize` and `read_history`.
"""
