"""The rules that a draft must pass: one pure function each, grouped by what they look at."""
