"""Labelled passages of web pages whose text may not be handed out: the repository holds where they are and their labels."""

import hashlib
import io
import json
from pathlib import Path

from classifiers.errors import DataError
from classifiers.training.labels import LabelledText


def read_passages(labels: Path, documents: Path) -> list[LabelledText]:
    """The passages that `labels` (JSON lines: id, start, end, sha256, score, category, source) cuts out of the Parquet
    shards in `documents` (columns id, text; the folder that the stage `documents` writes).

    Raises DataError where a document is missing or a passage is not the one that was labelled.
    """
    import pyarrow.parquet as pq

    files = sorted(documents.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{documents}: no .parquet shards; give the `documents` folder of a run over the labelled pages"
        )
    texts: dict[str, str] = {}
    for file in files:
        table = pq.read_table(file, columns=["id", "text"])
        texts.update(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    rows = []
    for number, line in enumerate(io.StringIO(labels.read_text(encoding="utf-8")), 1):
        row = json.loads(line)
        text = texts.get(row["id"], "")[row["start"] : row["end"]]
        if hashlib.sha256(text.encode()).hexdigest() != row["sha256"]:
            raise DataError(
                f"{labels}, line {number}: {documents} does not hold this passage of document {row['id']}; "
                "ingest the same pages with the same versions of safetrove and trafilatura"
            )
        rows.append(LabelledText(text, row["score"], row["category"], row["source"]))
    return rows
