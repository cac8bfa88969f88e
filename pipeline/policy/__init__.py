"""Rules without IO: what an answer means, what follows from it, and how fast to send.

`classify`, `decide`, `Pace` and `Cutoff` are what other rooms ask for; time and chance are passed
in.
"""
