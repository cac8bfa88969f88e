"""DataFrames from Python and notebooks: sends the rows of a frame and shows the run to a person.

`run_frame` is what users call.
"""
