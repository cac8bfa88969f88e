"""The ledger of a run folder: the only record of which requests were sent and paid.

No other room but `verify` contains SQL for it. `open_ledger` opens the ledger to write, `reading`
opens it to read, `queries` has the reading operations, and `check_ledger` looks for damage.
"""
