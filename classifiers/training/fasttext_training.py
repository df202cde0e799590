"""Trains the two fastText models: one thread, a fixed seed and clean memory, so that the same rows give the same bytes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import classifiers
from classifiers.decision import Decision
from classifiers.errors import DataError
from classifiers.fasttext_classifier import CATEGORY_FILE, LABEL_PREFIX, LEVEL_FILE, binding, words_of
from classifiers.training.labels import LabelledText
from classifiers.training.worker_pool import end_with_parent

LEVEL_SETTINGS = {
    "lr": 0.3,
    "epoch": 25,
    "dim": 48,
    "wordNgrams": 2,
    "bucket": 60_000,
    "minCount": 3,
    "minn": 3,
    "maxn": 5,
}
CATEGORY_SETTINGS = {
    "lr": 0.5,
    "epoch": 40,
    "dim": 16,
    "wordNgrams": 1,
    "bucket": 0,
    "minCount": 3,
    "minn": 0,
    "maxn": 0,
}
_SEED = 1
# With one thread fastText draws the first tenth of its input matrix and leaves the rest as the allocator gave it: garbage
# (or NaN) in memory that was used before. glibc fills new blocks with the complement of this byte, 0, once its cache of
# small blocks, which skips the filling, is off.
_CLEAN_MEMORY = {"MALLOC_PERTURB_": "255", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def train_fasttext(rows: list[LabelledText], folder: Path) -> None:
    """Writes `level.ftz` (all rows) and `category.ftz` (unsafe rows) into the folder. Raises DataError if training diverges."""
    unsafe = [row for row in rows if row.score > 0]
    folder.mkdir(parents=True, exist_ok=True)
    _train([(str(row.score), row.text) for row in rows], LEVEL_SETTINGS, folder / LEVEL_FILE)
    _train([(row.category, row.text) for row in unsafe], CATEGORY_SETTINGS, folder / CATEGORY_FILE)


def write_decision(with_others: Decision, alone: Decision, path: Path) -> None:
    """The thresholds, beside the models."""
    thresholds = {"with_others": with_others.thresholds, "alone": alone.thresholds}
    path.write_text(json.dumps(thresholds) + "\n", encoding="utf-8")


def _train(labelled: list[tuple[str, str]], settings: dict[str, float | int], target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch) / "rows.txt"
        text = "".join(f"{LABEL_PREFIX}{label} {' '.join(_words(document))}\n" for label, document in labelled)
        lines.write_text(text, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        environment |= _CLEAN_MEMORY | {"PYTHONPATH": str(Path(classifiers.__file__).parent.parent)}
        whole = target.with_suffix(".tmp")
        command = [
            sys.executable,
            "-m",
            "classifiers.training.fasttext_training",
            str(lines),
            str(whole),
            json.dumps(settings),
            str(os.getpid()),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        whole.unlink(missing_ok=True)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"training {target.name} on {len(labelled)} rows failed ({last}): give it more or other rows")
    whole.replace(target)


def _words(document: str) -> list[str]:
    """The words of a document without those that fastText would take for labels of the row; it does not score them either."""
    return [word for word in words_of(document) if not word.startswith(LABEL_PREFIX)]


def _train_in_this_process(lines: str, target: str, settings: str, parent: str) -> None:
    end_with_parent(int(parent))
    model = binding().train_supervised(lines, loss="softmax", thread=1, seed=_SEED, verbose=0, **json.loads(settings))
    model.quantize(qnorm=True, dsub=2, verbose=0)
    model.save_model(target)


if __name__ == "__main__":
    _train_in_this_process(*sys.argv[1:])
