"""Which documents prompts are compared on: those of a run without never_train, drawn by id, scored where they are not."""

import json

import pytest
from typer.testing import CliRunner

from classifiers.errors import DataError
from pipeline.atomic_files import write_text
from pipeline.prompt_comparison.sources import Ensemble, SourceDocument, draw_documents, run_documents
from pipeline.recipe import dump_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from safetrove.cli import app
from tests.pipeline.golden import LOGINS
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents, write_scores
from tests.pipeline.writer_stub import writer

ANGRY = "My neighbour is a moron and his ugly fence stands in my way, and I hate every day of it. "
CAKE = "A recipe for a plain cake with two eggs, a cup of flour and a little sugar. "


@pytest.fixture
def run(tmp_path):
    """A run with four documents, the last of them never to be trained on."""
    folder = RunFolder(tmp_path / "run")
    recipe = small_recipe(
        tmp_path, synthesis={"llm": {"kind": "endpoint", "url": "http://127.0.0.1:1", "model": "old"}}
    )
    write_text(folder.recipe, dump_recipe(recipe))
    ids = write_documents(folder, [ANGRY * 3, CAKE * 3, ANGRY * 2, LOGINS])
    for classifier in ("fasttext", "embedding"):
        write_scores(folder, classifier, ids, [2, 0, 3, 3])
    run_stage(FinalScoreStage(recipe, folder, 1))
    return folder


def test_a_runs_documents_have_its_scores_and_leave_never_train_out(run):
    documents = run_documents(run)
    assert [(document.text, document.score) for document in documents] == [
        (ANGRY * 3, 2),
        (CAKE * 3, 0),
        (ANGRY * 2, 3),
    ]
    with pytest.raises(DataError, match="no shard of this run is scored yet"):
        run_documents(RunFolder(run.root / "elsewhere"))


def test_a_run_is_compared_with_its_own_writer(run, tmp_path):
    with writer(lambda _: "I'm sorry, but I can't help with that request today.") as (url, asked):
        arguments = [run.root, "--styles", "podcast_host", "--base-url", url, "--output", tmp_path / "out"]
        result = CliRunner().invoke(app, ["prompts", "compare", *map(str, arguments)])
    assert result.exception is None and "writer: old behind an endpoint; 2 documents" in result.output
    assert len(asked) == 2 and not any("Passw0rd" in content for content in asked)


def test_documents_are_drawn_by_id_scored_where_needed_and_checked():
    ensemble = Ensemble()
    known = [SourceDocument(f"doc-{n}", ANGRY, 2, "en") for n in range(12)]
    first = draw_documents(known, 4, [1, 2, 3], 0, lambda: ensemble)
    assert first == draw_documents(reversed(known), 4, [1, 2, 3], 0, lambda: ensemble)
    assert first != draw_documents(known, 4, [1, 2, 3], 1, lambda: ensemble)
    unscored = [SourceDocument("angry", ANGRY * 3, None, "en"), SourceDocument("cake", CAKE * 3, None, "en")]
    [safe] = draw_documents(unscored, 4, [0], 0, lambda: ensemble)
    assert (safe.id, safe.score) == ("cake", 0)
    with pytest.raises(DataError, match=r"none of 1 documents has a score of 3"):
        draw_documents([SourceDocument("logins", LOGINS, 3, "en")], 4, [3], 0, lambda: ensemble)


def test_rows_without_an_id_are_named_by_their_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n" + json.dumps({"text": ANGRY * 3, "score": 2}) + "\n")
    with writer(lambda _: "x") as (url, _):
        arguments = ["prompts", "compare", str(path), "--styles", "podcast_host", "--model", "m", "--base-url", url]
        assert CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)]).exception is None
    assert "texts.jsonl:2" in (tmp_path / "compare.html").read_text()
