"""A copy of the API on this machine, written from the API's own page and not from our client.

Nothing here imports the rest of the package. If client and server shared a mistake, no test would
notice it.
"""
