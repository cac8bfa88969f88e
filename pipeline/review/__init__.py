"""Reviews: a person approves, edits or rejects answers, row by row or in a review sheet.

`review_job` stores one decision about some rows, `review_from` those of a review sheet, and
`reviewed_rows` yields the rows with a decision. Sends nothing, and works while a run is active.
"""
