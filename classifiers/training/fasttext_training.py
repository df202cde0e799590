"""Trains the two fastText models: one thread and a fixed seed, so that the same rows give the same bytes."""

import tempfile
from pathlib import Path

from classifiers.errors import DataError
from classifiers.fasttext_classifier import CATEGORY_FILE, LABEL_PREFIX, LEVEL_FILE, binding, words_of
from classifiers.training.labels import LabelledText

LEVEL_SETTINGS = {"lr": 0.5, "epoch": 25, "dim": 32, "wordNgrams": 2, "bucket": 50_000, "minCount": 3}
CATEGORY_SETTINGS = {"lr": 0.5, "epoch": 40, "dim": 16, "wordNgrams": 1, "bucket": 0, "minCount": 3}
_SEED = 1


def train_fasttext(rows: list[LabelledText], folder: Path) -> None:
    """Writes `level.ftz` (all rows) and `category.ftz` (unsafe rows) into the folder. Raises DataError if training diverges."""
    unsafe = [row for row in rows if row.score > 0]
    folder.mkdir(parents=True, exist_ok=True)
    _train([(str(row.score), row.text) for row in rows], LEVEL_SETTINGS, folder / LEVEL_FILE)
    _train([(row.category, row.text) for row in unsafe], CATEGORY_SETTINGS, folder / CATEGORY_FILE)


def _train(labelled: list[tuple[str, str]], settings: dict[str, float | int], target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch) / "rows.txt"
        text = "".join(f"{LABEL_PREFIX}{label} {' '.join(words_of(document))}\n" for label, document in labelled)
        lines.write_text(text, encoding="utf-8")
        try:
            model = binding().train_supervised(str(lines), loss="softmax", minn=0, maxn=0, thread=1, seed=_SEED, verbose=0, **settings)
        except RuntimeError as error:  # fastText's "Encountered NaN"
            raise DataError(f"training {target.name} on {len(labelled)} rows diverged ({error}): give it more or other rows") from error
        model.quantize(qnorm=True, dsub=2, verbose=0)
        whole = target.with_suffix(".tmp")
        model.save_model(str(whole))
        whole.replace(target)
