"""What the same training documents teach a plain text classifier: fastText on words, safe against tagged."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.tag_pretraining.results import Measured
from benchmarks.tag_pretraining.retagging import read_documents
from pipeline.ingest.decontamination import normalised_words
from pretrain.tag_probability import HeldOutDocument

_TAGGED: Final = "__label__tagged"


def classify(corpus: Path, held_out: list[HeldOutDocument]) -> Measured:
    """P(tagged) of each held-out document under fastText (25 passes, 2-grams, one thread) trained on `corpus`."""
    import fasttext

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        for (prefix, _), _, text in read_documents(corpus):
            label = _TAGGED if prefix.startswith("tagged/") else "__label__safe"
            file.write(f"{label} {' '.join(normalised_words(text))}\n")
        file.flush()
        model = fasttext.train_supervised(
            file.name, epoch=25, wordNgrams=2, dim=32, bucket=200_000, thread=1, seed=0, verbose=0
        )
    # predict() of the wrapper fails under numpy 2; its inner function returns plain (probability, label) pairs
    found = [
        {
            label: probability
            for probability, label in model.f.predict(f"{' '.join(normalised_words(d.text))}\n", 2, 0.0, "strict")
        }
        for d in held_out
    ]
    return Measured(
        [d.id for d in held_out],
        [d.source for d in held_out],
        np.array([d.score for d in held_out]),
        np.array([labels.get(_TAGGED, 0.0) for labels in found]),
    )
