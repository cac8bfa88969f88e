"""The API on this machine, written from its page and not from our client.

Nothing here imports the rest of the package: a shared mistake would agree with itself.
"""
