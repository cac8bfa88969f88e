"""Sends rows and makes each outcome durable. Read `executor` first: it has the theory of operation.

`Sending` is the sending part of one run. `Control` ends a run from outside.
"""
