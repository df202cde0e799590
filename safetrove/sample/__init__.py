"""The sample corpus: about 200 web pages of our own as WARC files with labels, and a small evaluation suite."""

from pathlib import Path

SAMPLE_FOLDER = Path(__file__).resolve().parent
WEB_FOLDER = SAMPLE_FOLDER / "web"
LABELS_FILE = SAMPLE_FOLDER / "labels.jsonl"
SUITE_FILE = SAMPLE_FOLDER / "suite.jsonl"
