"""Answers as files, and how an answer is found again by its row.

`Sealer`, `find_answers` and `rewrite_failures` are what other rooms ask for.
"""
