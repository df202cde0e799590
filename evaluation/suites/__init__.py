"""Suites of prompts as data descriptions, from local copies or the Hub; completion prompts and prefilled answers."""

from evaluation.suites.description import SuiteDescription, known_suites, read_description
from evaluation.suites.loading import Suite, SuitePrompt, load_suite

__all__ = ["Suite", "SuiteDescription", "SuitePrompt", "known_suites", "load_suite", "read_description"]
