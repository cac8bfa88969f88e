"""The only record of what was paid, and the only room that speaks SQL to it.

`open_ledger` writes, `reading` and the operations of `queries` read, `check_ledger` looks it all
through.
"""
