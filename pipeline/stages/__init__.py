"""The stages of a run, in order: one file for each kind of work."""
