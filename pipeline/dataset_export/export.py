"""Writes one kind of synthetic text as a folder that the Hub and `datasets.load_dataset` understand.

FOLDER/README.md is the card, FOLDER/data/train-00000-of-0000N.parquet are the rows, FOLDER/yields says what passed and what
did not. Unsafe source texts are not in it.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifiers.errors import DataError
from pipeline.atomic_files import write_text
from pipeline.dataset_export.yields import YIELDS_FOLDER, write_yields, yields_by_style
from pipeline.ingest.input_files import frozen_input_files
from pipeline.manifest import Manifest, output_state
from pipeline.recipe import Recipe
from pipeline.run import load_frozen_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_state import read_manifest
from pipeline.stage import ShardRef, Stage
from pipeline.stages.assignments import prompt_hashes
from pipeline.stages.order import build_stages
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.tokenise import synthetic_kinds
from rephrasers.verify import DraftKind

ROWS_AT_ONCE = 1000
# The columns in their order, and what each holds, for the card.
COLUMNS = {
    "id": "128-bit id of this text",
    "text": "the text to train on; of a dialogue with the speakers' names drawn for it",
    "turns": "the dialogue as a list of {role, text}, role user or assistant: for fine-tuning",
    "source_id": "id of the text that it was written from (a document; of an article, the dialogue)",
    "source": "name of the source in the recipe",
    "licence": "licence of the source, as the recipe states it",
    "language": "language of the source",
    "category": "kind of harm that the source was scored for",
    "score_before": "safety score of the source, 0 (safe) to 5",
    "score_after": "safety score of this text; of a refused dialogue, which names its problem, recorded and not gated",
    "style": "name of the prompt file",
    "prompt_version": "version of the prompt",
    "prompt_sha256": "hash of the prompt file",
    "model": "the writer",
    "revision": "what identifies the writer's weights",
    "sampling": "settings of the writer, JSON",
    "seed": "the recipe's seed: styles, names and the seeds of requests are drawn from it and the source's id",
    "finish_reason": "how the writer's answer ended",
    "pieces": "requests that the text was joined from",
    "attempt": "which attempt at the source this text is: earlier ones failed verification",
    "attempt_seed": "what the seeds of the attempt's requests are drawn from, with the source's id; null: none was sent",
    "attempts": "every attempt at the source with its style, its seed and the rules that its text broke",
}


@dataclass
class Counts:
    """What the card says about the rows of a data set."""

    rows: int = 0
    characters: int = 0
    shards: int = 0
    yields: list[dict[str, Any]] = field(default_factory=list)  # see `yields.yields_by_style`
    dropped: Counter[str] = field(default_factory=Counter)  # drafts that did not pass, by the first rule they break
    by: dict[str, Counter[str]] = field(default_factory=dict)  # column -> value -> rows

    COUNTED = ("style", "score_before", "score_after", "category", "language", "source", "licence", "model", "revision")

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch."""
        self.rows += batch.num_rows
        self.characters += sum(len(text) for text in batch.column("text").to_pylist())
        for column in self.COUNTED:
            if column in batch.schema.names:
                values = Counter(str(value) for value in batch.column(column).to_pylist())
                self.by.setdefault(column, Counter()).update(values)

    def merge(self, other: "Counts") -> None:
        """Add the rows of other shards; `yields` and `dropped` stay."""
        self.rows += other.rows
        self.characters += other.characters
        self.shards += other.shards
        for column, values in other.by.items():
            self.by.setdefault(column, Counter()).update(values)


def export_datasets(run: RunFolder, output: Path, kinds: list[str] | None = None) -> list[Path]:
    """Writes OUTPUT/<kind> for each kind (all of the recipe's by default) and returns the folders.

    A folder is built beside its place and put there whole. Raises DataError where the run has no such kind, shards are
    missing, edited or kept stale, or where something else lies in the folder's place.
    """
    recipe = load_frozen_recipe(run)
    there = synthetic_kinds(recipe)
    for kind in kinds or ():
        if kind not in there:
            known = ", ".join(there) or "none: its recipe asks no language model"
            raise DataError(f"--kind {kind}: this run has no texts of this kind; it has {known}")
    if not there:
        raise DataError(f"{run.root}: this run has no synthetic texts: its recipe asks no language model")
    return [export_kind(run, recipe, kind, output / kind) for kind in there if not kinds or kind in kinds]


def export_kind(run: RunFolder, recipe: Recipe, kind: DraftKind, folder: Path) -> Path:
    """Writes one kind as a data set folder; see `export_datasets`."""
    from pipeline.dataset_export.card import dataset_card

    manifests = _finished(run, recipe, kind)
    if not _is_ours(folder):
        raise DataError(f"{folder}: something else lies here; give another --output")
    building = folder.with_name(folder.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "data").mkdir(parents=True)
    try:
        counts = _write_rows(run, kind, manifests, building / "data")
        counts.yields = yields_by_style(manifests, set(prompt_hashes(kind)) - {"piece_notes"})
        write_yields(counts.yields, building)
        write_text(building / "README.md", dataset_card(recipe, kind, counts))
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


_OURS = {"README.md", "data", YIELDS_FOLDER}
_CARD_TAG = "safety-pretraining"  # of every card that `dataset_card` writes


def _is_ours(folder: Path) -> bool:
    """Whether nothing lies there, or an earlier export and nothing else: it is replaced whole."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return False
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not names:
        return True
    card = folder / "README.md"
    return names <= _OURS and card.is_file() and _CARD_TAG in card.read_text(encoding="utf-8", errors="replace")


def _finished(run: RunFolder, recipe: Recipe, kind: DraftKind) -> list[Manifest]:
    """The manifests of all shards of the stage that lets texts of a kind through, in order. Raises DataError where one is not
    finished or not as it was written, and where anything that leads to it is not what it was made from."""
    stages = {stage.name: stage for stage in build_stages(recipe, run, frozen_input_files(run) or [])}
    last = stages[f"verify-{kind}"]
    if not last.shards:
        raise DataError(f"{run.root}: no shard of this run is finished")
    leading = _leading(stages, [(last.name, shard) for shard in range(last.shards)])
    _check_leading(run, leading)
    manifests = [leading[last.name, shard] for shard in range(last.shards)]
    for path, recorded in (output for manifest in manifests for output in manifest.outputs.items()):
        if output_state(run.root / path, recorded, full=True) != "ok":
            raise DataError(f"{run.root / path}: not as its stage wrote it; safetrove rerun it before exporting")
    return manifests


def _leading(stages: Mapping[str, Stage], ends: Sequence[ShardRef]) -> dict[ShardRef, Manifest]:
    """The manifests of these shards and of all that lead to them. Raises DataError where one is not finished."""
    found: dict[ShardRef, Manifest] = {}
    open_ends = list(reversed(ends))
    while open_ends:
        name, shard = open_ends.pop()
        if (name, shard) in found:
            continue
        stage = stages[name]
        manifest = read_manifest(stage.run, name, shard)
        if manifest is None:
            root = stage.run.root
            raise DataError(
                f"{root}: shard {shard} of {name} is not finished; run `safetrove status {root}`, then finish it"
            )
        found[name, shard] = manifest
        open_ends += stage.inputs(shard)
    return found


def _check_leading(run: RunFolder, leading: Mapping[ShardRef, Manifest]) -> None:
    """Raises DataError where a shard was kept stale by force, or was made from what another of them has done again since."""
    outputs = {path: output.sha256 for manifest in leading.values() for path, output in manifest.outputs.items()}
    for manifest in leading.values():
        where = f"{run.root}: shard {manifest.shard} of {manifest.stage}"
        if manifest.forced_stale:
            raise DataError(f"{where} was kept stale (--force-stale); rerun it before exporting")
        inputs = manifest.identity.get("inputs", {})
        if any(outputs.get(path, sha256) != sha256 for path, sha256 in inputs.items()):
            raise DataError(
                f"{where} was made from what was done again since; finish it with `safetrove run` before exporting"
            )


def _write_rows(run: RunFolder, kind: DraftKind, manifests: list[Manifest], folder: Path) -> Counts:
    """One file a shard; shards without rows are left out, but for one where all are empty."""
    counts = Counts(shards=len(manifests))
    filled = []
    for manifest in manifests:
        counts.dropped.update(manifest.rows.dropped)
        table = synthetic_table(run, kind, manifest.shard)
        filled += [table] if pq.read_metadata(table).num_rows else []
    for number, table in enumerate(filled or [synthetic_table(run, kind, manifests[0].shard)]):
        name = f"train-{number:05d}-of-{max(1, len(filled)):05d}.parquet"
        schema = kind_schema(kind, pq.read_schema(table))
        with pq.ParquetWriter(folder / name, schema, compression="zstd") as writer:
            for batch in row_batches(table, schema.names):
                counts.add(batch)
                writer.write_batch(batch)
    return counts


def row_batches(table: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file with these columns in this order, `ROWS_AT_ONCE` at a time."""
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            yield batch.select(columns)


def kind_schema(kind: str, written: pa.Schema) -> pa.Schema:
    """The columns of a kind in their order: dialogues have turns, other texts do not."""
    return pa.schema([written.field(name) for name in COLUMNS if kind == "refusal" or name != "turns"])


def yield_share(counts: Counts) -> float | None:
    """Rows over drafts, in [0, 1]; None where nothing was written."""
    drafts = counts.rows + counts.dropped.total()
    return counts.rows / drafts if drafts else None
