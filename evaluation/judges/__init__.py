"""Judges of answers: string rules, LLM judges asked through the LLM servers, and our own safety classifier."""
