"""Workbooks, written."""
