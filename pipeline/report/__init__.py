"""The Data Safety Report Card: score histogram and harmful-phrase frequencies, originals beside rewritten text."""

from pipeline.report.card import build_card
from pipeline.report.diff import diff_cards, read_card
from pipeline.report.tallies import Tally

__all__ = ["Tally", "build_card", "diff_cards", "read_card"]
