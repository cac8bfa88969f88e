"""Which rows to send, and whether the user allowed it. Pure.

`Selection` says what a command chooses, `permit` refuses or asks.
"""
