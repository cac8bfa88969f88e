"""The page: a job in the browser, with the same public functions as the command line.

It keeps no state: runs are separate processes, and everything that it shows comes from the run
folders.
"""
