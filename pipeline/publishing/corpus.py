"""What a run publishes: its configurations staged as files, the cards, the Croissant file, and the reasons against it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from classifiers.errors import DataError
from pipeline.atomic_files import atomic_path, file_sha256, write_json, write_text
from pipeline.dataset_export.export import Counts
from pipeline.dataset_export.yields import YIELDS_SCHEMA, yields_by_style
from pipeline.manifest import Manifest
from pipeline.publishing.card import config_pattern, corpus_card
from pipeline.publishing.configurations import KINDS, OWNED, config_columns, config_names, config_schema, yields_name
from pipeline.publishing.croissant import croissant
from pipeline.publishing.plan import ConfigRows, OutgoingFile, Publication
from pipeline.publishing.refusals import licence_refusals, run_refusals
from pipeline.publishing.staging import stage_shard, staging_folder
from pipeline.recipe import Recipe
from pipeline.report.card import card_data
from pipeline.run import load_frozen_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.assignments import prompt_hashes


def run_publication(run: RunFolder, repo: str, address: str, include_unsafe: bool) -> Publication:
    """Stages what a run publishes under RUN/publish. `address` is the repository's on the Hub; nothing is sent.

    Whatever speaks against it is in `refusals`; a run that is not finished has no files then. Raises DataError where `run`
    is no run or a table in it cannot be read.
    """
    recipe = load_frozen_recipe(run)
    publication = Publication(repo, "dataset", owned=OWNED)
    with run.locked():
        publication.refusals = run_refusals(run)
        if publication.refusals:
            return publication
        shards = len(json.loads((run.root / "inputs.json").read_text(encoding="utf-8")))
        counts: dict[str, Counts] = {}
        for config in config_names(recipe, include_unsafe):
            counted = _stage_config(run, config, shards, publication)
            if counted.rows:
                counts[config] = counted
            if config in KINDS:
                _stage_yields(run, config, shards, counted, publication)
        publication.refusals = licence_refusals(recipe, counts)
        _stage_cards(run, recipe, address, shards, counts, publication)
    return publication


def _stage_config(run: RunFolder, config: str, shards: int, publication: Publication) -> Counts:
    """Adds the files of a configuration; one without any row has none, since `datasets` cannot read an empty split."""
    counts = Counts()
    files = []
    for shard in range(shards):
        staged = stage_shard(run, config, shard, shards)
        counts.merge(staged.counts)
        if staged.counts.rows:
            path = staged.path.relative_to(staging_folder(run)).as_posix()
            files.append(OutgoingFile(path, staged.path, staged.file.bytes, staged.file.sha256))
    if files:
        size = sum(file.bytes for file in files)
        publication.configs.append(ConfigRows(config, "train", counts.rows, len(files), size))
        publication.files += files
    return counts


def _stage_yields(run: RunFolder, kind: str, shards: int, counts: Counts, publication: Publication) -> None:
    """The yields of a kind, which always have rows; also completes its counts for the card."""
    manifests = [Manifest.read(run.manifest(f"verify-{kind}", shard)) for shard in range(shards)]
    counts.yields = yields_by_style(manifests, set(prompt_hashes(kind)) - {"piece_notes"})
    for manifest in manifests:
        counts.dropped.update(manifest.rows.dropped)
    name = yields_name(kind)
    path = staging_folder(run) / name / "yields.parquet"
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(counts.yields, schema=YIELDS_SCHEMA), temporary)
    file = _outgoing(run, path)
    publication.files.append(file)
    publication.configs.append(ConfigRows(name, "yields", len(counts.yields), 1, file.bytes))


def _stage_cards(
    run: RunFolder, recipe: Recipe, address: str, shards: int, counts: Mapping[str, Counts], publication: Publication
) -> None:
    """The report card (made anew from the manifests), the Croissant file and, last, README.md."""
    from pipeline.report.figure import draw_figure
    from pipeline.report.html import render_html

    folder, report = staging_folder(run), card_data(run.root)
    if report["stale"]:
        raise DataError(f"{run.root}: the report card counts shards that were kept stale; rerun them before publishing")
    write_json(folder / "report" / "card.json", report)
    write_text(folder / "report" / "card.html", render_html(report))
    with atomic_path(folder / "report" / "card.png") as temporary:
        draw_figure(report, temporary)
    schemas = {config.name: (config_pattern(config, shards), *_columns(run, config)) for config in publication.configs}
    licences = sorted({source.licence for source in recipe.sources})
    write_json(folder / "croissant.json", croissant(recipe.name, address, ", ".join(licences), schemas))
    card = corpus_card(recipe, report, publication.repo, publication.configs, counts, shards)
    write_text(folder / "README.md", card)
    names = ("report/card.json", "report/card.html", "report/card.png", "croissant.json", "README.md")
    publication.files += [_outgoing(run, folder / name) for name in names]


def _columns(run: RunFolder, config: ConfigRows) -> tuple[pa.Schema, Mapping[str, str]]:
    if config.split == "train":
        return config_schema(run, config.name, 0), config_columns(config.name)
    return YIELDS_SCHEMA, {}


def _outgoing(run: RunFolder, path: Path) -> OutgoingFile:
    return OutgoingFile(path.relative_to(staging_folder(run)).as_posix(), path, path.stat().st_size, file_sha256(path))
