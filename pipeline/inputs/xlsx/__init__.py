"""Workbooks, read as streams of XML.

Other readers lose number formats and the values of formulas that were not calculated, and those
decide what is sent.
"""
