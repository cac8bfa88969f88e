"""Files that are written for the user: a first spec, and what starts a job every night."""
