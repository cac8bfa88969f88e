"""Decides which rows to send, and whether the user allowed it. Sends and writes nothing.

`Selection` describes the rows that a command chooses. `permit` refuses or asks.
"""
