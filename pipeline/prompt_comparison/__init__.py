"""Prompt work: chosen styles over the same few documents, verified as in a run, with yields and a page to read."""
