"""Trains all shipped weights: `python -m classifiers.training.train LABELS.jsonl OUT_DIR [--encoder NAME]`."""

import argparse
import sys
from pathlib import Path

from classifiers.embedding import SHIPPED_HEAD
from classifiers.encoder import EMBEDDED_ENCODER, Encoder
from classifiers.errors import SafetroveError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS
from classifiers.training.fasttext_training import train_fasttext
from classifiers.training.head_training import train_heads
from classifiers.training.labels import read_labels


def train_all(labels: Path, folder: Path, encoder: str = EMBEDDED_ENCODER) -> None:
    """Writes `fasttext/level.ftz`, `fasttext/category.ftz` and `embedding/minilm_head.safetensors` under the folder."""
    rows = read_labels(labels)
    train_fasttext(rows, folder / SHIPPED_WEIGHTS.name)
    train_heads(rows, Encoder(encoder), folder / SHIPPED_HEAD.parent.name / SHIPPED_HEAD.name)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m classifiers.training.train", description=__doc__)
    parser.add_argument("labels", type=Path, help="JSON lines with text, score (0-5) and category")
    parser.add_argument("folder", type=Path, help="where the weights go")
    parser.add_argument("--encoder", default=EMBEDDED_ENCODER, help="the embedded encoder, a local folder, or a Hub id")
    options = parser.parse_args(arguments)
    try:
        train_all(options.labels, options.folder, options.encoder)
    except SafetroveError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
