"""Turns any sheet into rows of text, each with a row key, and writes a durable copy of them.

Other rooms use `open_table`, `bind` and `take_snapshot`.
"""
