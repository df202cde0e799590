"""Comparisons of the fine-tuning methods on a real model: erosion and its prevention, steering back, modes."""
