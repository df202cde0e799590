"""Measures as pure functions: rates with intervals, paired tests, modes, tag probabilities; capability through lm-eval."""
