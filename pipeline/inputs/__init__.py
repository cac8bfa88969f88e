"""Any sheet becomes rows of text with a key each, and a durable copy of them.

`open_table`, `bind` and `take_snapshot` are what other rooms ask for.
"""
