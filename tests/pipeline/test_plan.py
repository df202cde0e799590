"""`safetrove plan` on a small JSON-lines source whose true numbers are known."""

import gzip
import json
import re
from pathlib import Path

import pytest

from classifiers.errors import DataError, RecipeError
from pipeline.ingest.input_files import list_input_files
from pipeline.manifest import Manifest
from pipeline.plan import _language_model_line, plan_run
from pipeline.plan_sample import evenly_spread, read_samples
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run import execute
from pipeline.run_folder import RunFolder
from rephrasers.servers.settings import ServerSettings
from tests.faults.small_run import Watcher
from tests.pipeline.tiny_tokenizer import save_tiny_tokenizer

ROWS = 400
TEXT = "Row {row} of a report on the harvest: it was dry until the middle of May, then it rained for {row} hours. "


def write_source(folder: Path) -> None:
    """Two files, one gzipped; every tenth row is too short to be a document."""
    folder.mkdir()
    rows = [{"id": str(row), "text": "short" if row % 10 == 0 else TEXT.format(row=row) * 3} for row in range(ROWS)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "a.jsonl").write_text("".join(lines[: ROWS // 2]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[ROWS // 2 :]).encode()))


def make_recipe(folder: Path, **changes: object) -> Recipe:
    source = {"name": "texts", "format": "jsonl", "path": str(folder / "texts")}
    return parse_recipe({"name": "test", "sources": [source], **changes}, "test", folder)


def test_numbers_are_near_the_truth_and_nothing_is_written(tmp_path: Path) -> None:
    write_source(tmp_path / "texts")
    before = sorted(tmp_path.rglob("*"))
    score = {"classifiers": ["fasttext"]}
    llm = {"url": "http://localhost:1", "model": "none"}  # never asked: an endpoint's prompts are estimated
    plan = plan_run(make_recipe(tmp_path, score=score, synthesis={"llm": llm}))
    assert sorted(tmp_path.rglob("*")) == before
    ingested = re.search(r"^ingest +([\d,]+)", plan, re.MULTILINE)
    kept = re.search(r"documents after ingest: ([\d,]+)", plan)
    assert ingested and kept
    assert int(ingested[1].replace(",", "")) == pytest.approx(ROWS, rel=0.2)
    assert int(kept[1].replace(",", "")) == pytest.approx(ROWS * 0.9, rel=0.2)
    for line in (
        "score-fasttext",
        "tokenise-safe",
        "rephrase",
        "prompt tokens (estimated from bytes)",
        "extrapolation",
    ):
        assert line in plan


def test_a_part_of_a_large_file_stands_for_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(tmp_path / "texts")
    (tmp_path / "texts" / "b.jsonl.gz").unlink()
    monkeypatch.setattr("pipeline.plan_sample.PART_BYTES", 10_000)
    recipe = make_recipe(tmp_path)
    [sample] = read_samples(recipe, list_input_files(recipe), RunFolder(tmp_path / "run"))
    assert sample.rows_read < ROWS / 4
    assert sample.rows_read * sample.factor == pytest.approx(ROWS / 2, rel=0.1)


def test_a_source_without_documents_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"body": "no column named text"}\n' * 3)
    with pytest.raises(DataError, match=r"none of the 3 rows .* text_column"):
        plan_run(make_recipe(tmp_path))
    with pytest.raises(RecipeError, match="no files there"):
        plan_run(make_recipe(tmp_path / "elsewhere"))


def test_prompts_of_an_endpoint_are_counted_with_its_tokenizer_whatever_its_model_is_called(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path, "bpe")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    llm = ServerSettings(url="http://localhost:1", model="large", tokenizer=str(tmp_path))
    line = _language_model_line("rephrase", llm, [[[{"role": "user", "content": "abc"}]]], 1.0)
    assert line.counted and line.prompt_tokens == 3


def test_spread_takes_both_ends() -> None:
    assert evenly_spread(2, 3) == [0, 1]
    assert evenly_spread(101, 3) == [0, 50, 100]


def test_disk_is_near_the_truth_though_few_documents_go_through_the_encoder(tmp_path: Path) -> None:
    write_source(tmp_path / "texts")
    recipe = make_recipe(tmp_path)
    plan = plan_run(recipe)
    run = RunFolder(tmp_path / "run")
    execute(recipe, run.root, Watcher(), ["tokenizer", "ingest", "dedup-find", "documents", "score-fasttext"])
    sample = re.search(
        r"^sample: (\d+) documents through the real stages, (\d+) of them through the encoder", plan, re.M
    )
    assert sample and int(sample[1]) == ROWS * 0.9 and int(sample[2]) <= 60
    for stage in ("documents", "score-fasttext"):
        line = re.search(rf"^{stage} .* ([\d.]+) (bytes|kB)$", plan, re.MULTILINE)
        written = sum(file.bytes for s in (0, 1) for file in Manifest.read(run.manifest(stage, s)).outputs.values())
        assert line
        assert float(line[1]) * (1000 if line[2] == "kB" else 1) == pytest.approx(written, rel=0.3)
