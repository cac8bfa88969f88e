"""Access to the files, processes, mounts and network of this machine.

Somebody else may have put a file where the runner expects its own: `opening` guards against that. A
child process must import nothing from the current folder: `children` ensures that.
"""
