"""The stages that write, with a long document, a document over the budget, and a piece without an answer."""

import json

import pyarrow.parquet as pq
import pytest

from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from pipeline.stages.synthesis import DraftStage, draft_table
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents, write_scores
from tests.pipeline.writer_stub import writer

LINE = "Line {n} of the long page tells how the ferry left the harbour.\n\n"
SHORT, LONG = "A short page about an angry neighbour and a fence.", "".join(LINE.format(n=n) for n in range(20))
BROKEN = LONG.replace("Line 19 ", "Line broken ")
ENDLESS = LONG * 10


def echo(content):
    """Names the lines that it was shown; rejects a prompt that holds "broken"."""
    shown = [word for before, word in zip(content.split(), content.split()[1:], strict=False) if before == "Line"]
    return 400 if "broken" in content else f"lines {' '.join(shown)}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(rows by document number, manifest) of the stage `rephrase`."""
    folder = tmp_path_factory.mktemp("pieces")
    with writer(echo) as (url, _):
        llm = {"kind": "endpoint", "url": url, "model": "echo"}
        synthesis = {"llm": llm, "piece_characters": 500, "most_pieces": 4, "source_characters": 5000}
        recipe, run = small_recipe(folder, synthesis=synthesis), RunFolder(folder / "run")
        ids = write_documents(run, [SHORT, LONG, BROKEN, ENDLESS])
        for classifier in ("fasttext", "embedding"):
            write_scores(run, classifier, ids, [2, 2, 2, 2])
        run_stage(FinalScoreStage(recipe, run, 1))
        manifest = run_stage(DraftStage("rephrased", recipe, run, 1))
    rows = {ids.index(row["source_id"]): row for row in pq.read_table(draft_table(run, "rephrased", 0)).to_pylist()}
    return rows, manifest


def test_a_long_document_is_written_in_pieces_and_joined_in_order(finished):
    rows, _ = finished
    assert rows[0]["pieces"] == 1 and 2 <= rows[1]["pieces"] <= 4
    paragraphs = rows[1]["text"].split("\n\n")
    assert len(paragraphs) == rows[1]["pieces"]
    assert " ".join(paragraphs).replace("lines ", "").split() == [str(n) for n in range(20)]


def test_over_the_budget_is_dropped_and_a_missing_piece_is_quarantined(finished):
    rows, manifest = finished
    assert set(rows) == {0, 1}
    assert manifest.rows.dropped == {"too_many_pieces": 1} and manifest.rows.quarantined == {"rejected": 1}
    assert manifest.rows.rows_in == 4 and manifest.rows.missing() == 0


def test_lineage_names_prompt_sampling_and_seed(finished):
    rows, manifest = finished
    sampling = json.loads(rows[1]["sampling"])
    assert {"temperature", "top_p", "stop", "send_seeds", "max_tokens"} <= sampling.keys()
    assert len(rows[1]["prompt_sha256"]) == 64 and rows[1]["prompt_version"] == "2"
    settings = manifest.identity["settings"]
    assert settings["prompts"][rows[1]["style"]] == rows[1]["prompt_sha256"] and "piece_notes" in settings["prompts"]
    assert (settings["piece_characters"], settings["most_pieces"]) == (500, 4)
