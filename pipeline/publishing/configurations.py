"""The configurations of a published corpus: which tables they come from, their columns, and which rows may go.

`safe` holds originals of score 0, `rephrased`, `refusal` and `moral` the synthetic texts that passed verification,
`tagged` (with --include-unsafe alone) the unsafe originals with the word slots of their tags. Documents marked
never_train are in none of them, and there is no option that lets them out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from classifiers.errors import DataError
from pipeline.dataset_export.export import COLUMNS, kind_schema, row_batches
from pipeline.ingest.documents import DOCUMENT_SCHEMA
from pipeline.publishing.plan import SAFE, TAGGED
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.dedup import document_table
from pipeline.stages.score import score_table
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.tag import TAGGED_SCHEMA, tagged_table
from pipeline.stages.tokenise import synthetic_kinds
from rephrasers.verify import DraftKind

KINDS: tuple[DraftKind, ...] = get_args(DraftKind)

SAFE_COLUMNS = {
    "id": "128-bit id: a hash of source name and record",
    "text": "the text",
    "url": "where it was read",
    "source": "name of the source in the recipe",
    "licence": "licence of the source, as the recipe states it",
    "language": "language, ISO 639",
    "content_sha256": "hash of the text",
}
TAGGED_COLUMNS = {
    "id": "128-bit id: a hash of source name and record",
    "text": "the text, unsafe and without tags",
    "slots": "1-based indices of the words before which a harmfulness tag goes",
    "words": "number of words",
    "score": "safety score, 1 to 5",
    "category": "kind of harm",
    "source": "name of the source in the recipe",
    "licence": "licence of the source, as the recipe states it",
    "language": "language, ISO 639",
}


def config_names(recipe: Recipe, include_unsafe: bool) -> list[str]:
    """The configurations of a run, in order."""
    return [SAFE, *synthetic_kinds(recipe), *([TAGGED] if include_unsafe else [])]


def yields_name(kind: str) -> str:
    """The configuration with the yields of a kind."""
    return f"{kind}-yields"


# Folders that a publication of ours may have filled.
OWNED = frozenset({SAFE, TAGGED, *KINDS, *(yields_name(kind) for kind in KINDS), "report"})


def config_columns(config: str) -> dict[str, str]:
    """Column -> what it holds."""
    if config == SAFE:
        return SAFE_COLUMNS
    if config == TAGGED:
        return TAGGED_COLUMNS
    return {name: what for name, what in COLUMNS.items() if config == "refusal" or name != "turns"}


def config_tables(run: RunFolder, config: str, shard: int) -> dict[str, Path]:
    """Stage -> the table of this shard that the configuration's rows come from; the first one gives the rows."""
    if config == SAFE:
        return {"documents": document_table(run, shard), "score-final": score_table(run, "final", shard)}
    if config == TAGGED:
        return {"tag": tagged_table(run, shard)}
    return {f"verify-{config}": synthetic_table(run, config, shard)}


def config_schema(run: RunFolder, config: str, shard: int) -> pa.Schema:
    """The schema of the published file."""
    if config == SAFE:
        return pa.schema([DOCUMENT_SCHEMA.field(name) for name in SAFE_COLUMNS])
    if config == TAGGED:
        return pa.schema([TAGGED_SCHEMA.field(name) for name in TAGGED_COLUMNS])
    return kind_schema(config, pq.read_schema(synthetic_table(run, config, shard)))


def config_batches(run: RunFolder, config: str, shard: int) -> Iterator[pa.RecordBatch]:
    """The rows that go out, a bounded number in memory, with the columns of `config_schema`.

    Raises DataError where the scores do not belong to the documents, or where a synthetic text has a score above its gate.
    """
    schema = config_schema(run, config, shard)
    main, *_ = config_tables(run, config, shard).values()
    if config == SAFE:
        yield from _safe_batches(main, score_table(run, "final", shard), schema.names)
        return
    for batch in row_batches(main, schema.names):
        if config in ("rephrased", "moral"):
            _check_gate(batch, main)
        yield batch


def _safe_batches(documents: Path, scores: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Originals of score 0 that are not never_train: joined by row, each id compared."""
    final = pq.read_table(scores, columns=["id", "score", "never_train"]).combine_chunks()
    # a null score is no zero: fill_null(False) keeps it out
    safe = pc.fill_null(pc.and_(pc.equal(final["score"], 0), pc.is_null(final["never_train"])), False)
    start = 0
    for batch in row_batches(documents, columns):
        ids = final["id"].slice(start, batch.num_rows).combine_chunks()
        if not ids.equals(batch.column("id")):
            raise DataError(f"{scores}: not row-aligned with {documents}; rerun the stage score-final for this shard")
        yield batch.filter(safe.slice(start, batch.num_rows).combine_chunks())
        start += batch.num_rows
    if start != final.num_rows:
        raise DataError(f"{scores}: has more rows than {documents}; rerun the stage score-final for this shard")


def _check_gate(batch: pa.RecordBatch, table: Path) -> None:
    """Rewrites and articles are kept with a score of at most 1; whatever else stands here was not written by verify."""
    passed = pc.fill_null(pc.less_equal(batch.column("score_after"), 1), False)
    if not pc.all(passed, min_count=0).as_py():
        raise DataError(f"{table}: holds texts with a score above 1; rerun the verify stage of this shard")
