"""Training and evaluation of the shipped classifiers."""
