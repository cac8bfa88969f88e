"""From a row to its durable outcome.

`Sending` is one run of the executor, and `Control` ends it from outside.
"""
