"""Rules without IO: the meaning of a response, the next step for its row, and the pace.

Other rooms use `classify`, `decide`, `Pace` and `Cutoff`. The caller passes in time and chance.
"""
