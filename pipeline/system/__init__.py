"""Files, processes, mounts and the network as this machine has them.

A file may be one that a stranger put there, and a child process must import nothing from the
current folder: `opening` and `children` see to that.
"""
