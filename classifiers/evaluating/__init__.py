"""Evaluation of the classifiers on labelled texts: members and baselines, measures with intervals, tables, figures."""
