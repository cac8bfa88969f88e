"""Decides which rows to send, and whether the user allowed it. Pure.

`Selection` describes the rows that a command chooses. `permit` refuses or asks.
"""
