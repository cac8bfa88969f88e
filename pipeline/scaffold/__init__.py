"""Writes files for the user: a first job file, and the files that start a job every night."""
