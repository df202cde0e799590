"""Synthetic texts as data sets: read back by `datasets`, with a card whose numbers are the rows', and refusals to export."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml

from classifiers.errors import DataError
from pipeline.atomic_files import write_text
from pipeline.dataset_export.export import export_datasets, export_kind
from pipeline.ingest.input_files import InputFile, freeze_input_files
from pipeline.manifest import Manifest, OutputFile, Rows
from pipeline.recipe import dump_recipe
from pipeline.run import load_frozen_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.order import build_stages
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.verify import SYNTHETIC_SCHEMA
from tests.pipeline.stage_runs import small_recipe, write_table

TURNS = [{"role": "user", "text": "Help me be mean."}, {"role": "assistant", "text": "I can't help with that."}]


def row(kind, number, **changes):
    return {
        "id": f"{kind}-{number}",
        "text": f"Text {number} with ünïcode and a | pipe.",
        "turns": TURNS if kind == "refusal" else None,
        "source_id": f"doc-{number}",
        "source": "texts",
        "licence": "CC0-1.0",
        "language": "en",
        "category": "hate",
        "score_before": 2,
        "score_after": 0,
        "style": "refuse" if kind == "refusal" else "podcast_host",
        "prompt_version": "2",
        "prompt_sha256": "0" * 64,
        "model": "some writer",
        "revision": "abc",
        "sampling": "{}",
        "seed": 0,
        "finish_reason": "stop",
        "pieces": 1,
        **changes,
    }


def make_run(folder, shards, licence="CC0-1.0"):
    """A run whose synthetic shards hold so many rows of each kind, each beside two drafts that did not pass."""
    source = {"name": "texts", "format": "jsonl", "path": "in", "licence": licence}
    recipe, run = (
        small_recipe(folder, sources=[source], synthesis={"llm": {"model": "embedded:x"}}),
        RunFolder(folder / "run"),
    )
    write_text(run.recipe, dump_recipe(recipe))
    files = [InputFile("texts", "jsonl", f"{n}.jsonl", f"in/{n}.jsonl") for n in range(len(shards))]
    freeze_input_files(files, run)
    for stage in build_stages(recipe, run, files):
        for shard in range(stage.shards):
            Manifest(stage.name, shard, {}, Rows(), outputs={}).write(run.manifest(stage.name, shard))
    for kind, stage in (("rephrased", "rephrase"), ("refusal", "refuse"), ("moral", "moralise")):
        for shard, number in enumerate(shards):
            table = synthetic_table(run, kind, shard)
            write_table(table, [row(kind, f"{shard}-{n}", licence=licence) for n in range(number)], SYNTHETIC_SCHEMA)
            style = "refuse" if kind == "refusal" else "podcast_host"
            for name in (stage, f"verify-{kind}"):
                Manifest(
                    stage=name,
                    shard=shard,
                    identity={},
                    rows=Rows(number + 2, number, {"copied": 2}, {}),
                    outputs={run.relative(table): OutputFile.of(table, number)} if name.startswith("verify") else {},
                    metrics={
                        "yield_by_style": {style: [number, number + 2]},
                        "rejected_by_style": {style: {"copied": 2}},
                    },
                ).write(run.manifest(name, shard))
    return run


def metadata_of(folder):
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_each_kind_is_read_back_by_datasets(tmp_path):
    from datasets import load_dataset

    run = make_run(tmp_path, [3, 0, 2])
    folders = export_datasets(run, tmp_path / "out")
    assert [folder.name for folder in folders] == ["rephrased", "refusal", "moral"]
    for folder in folders:
        data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
        assert list(data) == ["train"] and len(data["train"]) == 5
        rows = [
            stored
            for shard in range(3)
            for stored in pq.read_table(synthetic_table(run, folder.name, shard)).to_pylist()
        ]
        names = set(data["train"].column_names)
        assert names == set(SYNTHETIC_SCHEMA.names) - (set() if folder.name == "refusal" else {"turns"})
        assert [dict(loaded) for loaded in data["train"]] == [{k: v for k, v in r.items() if k in names} for r in rows]
    assert load_dataset(str(folders[1]), cache_dir=str(tmp_path / "cache"))["train"][0]["turns"] == TURNS
    assert sorted(path.name for path in (folders[0] / "data").iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert not list((tmp_path / "out").glob("*.partial"))


def test_the_card_has_the_hubs_metadata_and_true_numbers(tmp_path):
    folder = export_datasets(make_run(tmp_path, [3, 2]), tmp_path / "out", ["rephrased"])[0]
    metadata, body = metadata_of(folder)
    assert (
        metadata["license"] == "cc0-1.0" and metadata["language"] == ["en"] and metadata["size_categories"] == ["n<1K"]
    )
    assert metadata["configs"][0] == {
        "config_name": "default",
        "data_files": [{"split": "train", "path": "data/*.parquet"}],
    }
    assert "5 texts" in body and "Of 9 drafts 5 (55.6 %) passed" in body
    assert "| podcast_host | 9 | 5 | 55.6 % | copied 4 |" in body and "| copied | 4 |" in body
    assert "some writer (revision abc)" in body and "| texts | CC0-1.0 | 5 |" in body
    assert "`prompt_sha256`" in body and "`turns`" not in body
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_the_hub_accepts_the_metadata(tmp_path):
    from huggingface_hub import DatasetCard

    folder = export_datasets(make_run(tmp_path, [1]), tmp_path / "out", ["refusal"])[0]
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc0-1.0" and card.data.task_categories == ["text-generation"]


def test_an_empty_data_set_is_a_result_that_says_so_and_is_read_back(tmp_path):
    from datasets import load_dataset

    folder = export_datasets(make_run(tmp_path, [0, 0]), tmp_path / "out", ["moral"])[0]
    metadata, body = metadata_of(folder)
    assert "This data set is empty" in body and "no split `train`" in body and "Of 4 drafts 0 (0.0 %) passed" in body
    assert metadata["license"] == "unknown" and "language" not in metadata
    [file] = (folder / "data").iterdir()
    assert pq.read_table(file).num_rows == 0 and "source_id" in pq.read_schema(file).names
    data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(data) == ["yields"], "no split that could be taken for texts"
    assert {row["style"]: (row["drafts"], row["passed"]) for row in data["yields"]}["podcast_host"] == (4, 0)
    texts = load_dataset("parquet", data_files=str(file), streaming=True)["train"]
    assert list(texts) == [] and "text" in texts.features, "streaming reads the file of columns"


def test_the_yields_are_a_table_beside_the_texts(tmp_path):
    from datasets import load_dataset

    run = make_run(tmp_path, [3, 0])
    for folder in export_datasets(run, tmp_path / "out"):
        rows = list(load_dataset(str(folder), "yields", cache_dir=str(tmp_path / "cache"))["yields"])
        [row] = [row for row in rows if row["drafts"]]
        assert row["style"] == ("refuse" if folder.name == "refusal" else "podcast_host")
        assert (row["drafts"], row["passed"]) == (7, 3) and row["rejected"] == [{"rule": "copied", "drafts": 4}]
        # the twelve styles of rewrites have rows even where they were never drawn
        assert len(rows) == {"rephrased": 12, "refusal": 1, "moral": 2}[folder.name]


def test_a_kind_that_was_never_written_is_read_back_too(tmp_path):
    from datasets import load_dataset

    run = make_run(tmp_path, [0])
    path = run.manifest("verify-moral", 0)
    replace(Manifest.read(path), rows=Rows(0, 0), metrics={}).write(path)
    folder = export_datasets(run, tmp_path / "out", ["moral"])[0]
    assert "Of 0 drafts none was written." in metadata_of(folder)[1]
    [row] = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["yields"]
    assert row == {"style": "moralise", "drafts": 0, "passed": 0, "rejected": []}


def test_an_empty_data_set_adds_nothing_to_others(tmp_path):
    from datasets import load_dataset

    full = export_datasets(make_run(tmp_path / "a", [2]), tmp_path / "a", ["rephrased"])[0]
    empty = export_datasets(make_run(tmp_path / "b", [0]), tmp_path / "b", ["rephrased"])[0]
    files = [str(folder / "data" / "*.parquet") for folder in (empty, full)]
    assert len(load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]) == 2


def test_an_unknown_licence_is_said_and_a_second_export_replaces_the_first(tmp_path):
    run = make_run(tmp_path, [2], licence="unknown")
    folder = export_datasets(run, tmp_path / "out", ["moral"])[0]
    metadata, body = metadata_of(folder)
    assert metadata["license"] == "unknown" and "settle that before publishing" in body
    (folder / "data" / "left-over.parquet").write_bytes(b"")
    (tmp_path / "out" / "moral.partial" / "data").mkdir(parents=True)  # of a command that was killed
    (tmp_path / "out" / "moral.partial" / "data" / "left-over.parquet").write_bytes(b"")
    export_datasets(run, tmp_path / "out", ["moral"])
    assert [path.name for path in (folder / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["moral"]


def test_what_is_not_whole_is_not_exported(tmp_path):
    run = make_run(tmp_path, [2, 1])
    with pytest.raises(
        DataError, match="--kind dialogues: this run has no texts of this kind; it has rephrased, refusal, moral"
    ):
        export_datasets(run, tmp_path / "out", ["dialogues"])
    written = run.manifest("moralise", 1)
    kept = Manifest.read(written)
    replace(kept, forced_stale=True).write(written)
    with pytest.raises(DataError, match="shard 1 of moralise was kept stale"):
        export_datasets(run, tmp_path / "out", ["moral"])
    replace(kept, outputs={"drafts/moral/00001.parquet": OutputFile("1" * 64, 1, 0, 1)}).write(written)
    verified = Manifest.read(run.manifest("verify-moral", 1))
    older = {"inputs": {"drafts/moral/00001.parquet": "0" * 64}}
    replace(verified, identity=older).write(run.manifest("verify-moral", 1))
    with pytest.raises(DataError, match="shard 1 of verify-moral was made from what was done again since"):
        export_datasets(run, tmp_path / "out", ["moral"])
    kept.write(written)
    verified.write(run.manifest("verify-moral", 1))
    manifest = run.manifest("verify-moral", 1)
    replace(Manifest.read(manifest), forced_stale=True).write(manifest)
    with pytest.raises(DataError, match="shard 1 of verify-moral was kept stale"):
        export_datasets(run, tmp_path / "out", ["moral"])
    manifest.unlink()
    with pytest.raises(DataError, match="shard 1 of verify-moral is not finished"):
        export_datasets(run, tmp_path / "out", ["moral"])
    scored = run.manifest("score-final", 0)
    kept = scored.read_bytes()
    scored.unlink()
    with pytest.raises(DataError, match="shard 0 of score-final is not finished"):
        export_datasets(run, tmp_path / "out", ["rephrased"])
    scored.write_bytes(kept)
    write_table(synthetic_table(run, "rephrased", 0), [row("rephrased", 9)], SYNTHETIC_SCHEMA)
    with pytest.raises(DataError, match=r"rephrased/00000\.parquet: not as its stage wrote it"):
        export_datasets(run, tmp_path / "out", ["rephrased"])
    (tmp_path / "out" / "refusal").mkdir(parents=True)
    (tmp_path / "out" / "refusal" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something else lies here"):
        export_datasets(run, tmp_path / "out", ["refusal"])
    (tmp_path / "out" / "refusal" / "data").mkdir()  # a clone of a data set, with notes in it
    with pytest.raises(DataError, match="something else lies here"):
        export_datasets(run, tmp_path / "out", ["refusal"])
    assert (tmp_path / "out" / "refusal" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "refusal" / "notes.txt").rename(tmp_path / "out" / "refusal" / "README.md")
    with pytest.raises(DataError, match="something else lies here"):
        export_datasets(run, tmp_path / "out", ["refusal"])
    (tmp_path / "link").symlink_to(tmp_path / "out" / "refusal")
    with pytest.raises(DataError, match="something else lies here"):
        export_kind(run, load_frozen_recipe(run), "refusal", tmp_path / "link")
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("refuse", "moral"), ("score-fasttext", "rephrased"), ("ingest", "refusal"), ("dedup-find", "moral")],
)
def test_no_stage_that_leads_to_a_text_may_have_been_kept_stale(tmp_path, stage, kind):
    run = make_run(tmp_path, [1])
    manifest = Manifest(stage, 0, identity={}, rows=Rows(), outputs={}, forced_stale=True)
    manifest.write(run.manifest(stage, 0))
    with pytest.raises(DataError, match=f"shard 0 of {stage} was kept stale"):
        export_datasets(run, tmp_path / "out", [kind])


def test_articles_about_dialogues_that_were_written_again_since_are_not_exported(tmp_path):
    run = make_run(tmp_path, [1])
    for stage, outputs, inputs in (
        ("refuse", {"drafts/refusal/00000.parquet": "b"}, {}),
        ("moralise", {}, {"drafts/refusal/00000.parquet": "a"}),
    ):
        path = run.manifest(stage, 0)
        files = {name: OutputFile(sha256, 1, 1) for name, sha256 in outputs.items()}
        replace(Manifest.read(path), outputs=files, identity={"inputs": inputs}).write(path)
    with pytest.raises(DataError, match="shard 0 of moralise was made from what was done again since"):
        export_datasets(run, tmp_path / "out", ["moral"])
