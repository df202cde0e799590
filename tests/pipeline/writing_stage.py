"""The stage `refuse` (one request a document) over numbered documents, in this process; and its prompts by document."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from pipeline.stages.synthesis import DraftStage, draft_table
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents, write_scores

DIALOGUE = "User: May I do it?\nAssistant: I can't help with that, since it would hurt people. ({word})"


def word_of(prompt: str) -> str:
    """The word that a document was written around."""
    found = re.search(r"Page about (\S+) and", prompt)
    assert found
    return found[1]


def text_about(word: str) -> str:
    """A document."""
    return f"Page about {word} and an angry neighbour."


def prepare(folder: Path, words: list[str], pad: int = 0) -> list[str]:
    """Documents and their final scores in folder/run; the ids. pad: characters that each document is longer by."""
    run = RunFolder(folder / "run")
    ids = write_documents(run, [text_about(word) + " word" * (pad // 5) for word in words])
    for classifier in ("fasttext", "embedding"):
        write_scores(run, classifier, ids, [4] * len(ids))
    run_stage(FinalScoreStage(small_recipe(folder), run, 1))
    return ids


def stage_of(folder: Path, llm: dict[str, Any], shards: int = 1) -> DraftStage:
    """The stage over what `prepare` wrote; no further attempts, so that no classifier is loaded."""
    defaults = {"model": "stub", "concurrency": 4, "max_attempts": 3, "request_timeout_seconds": 30, "max_tokens": 64}
    recipe = small_recipe(folder, synthesis={"llm": defaults | llm, "attempts": 0})
    return DraftStage("refusal", recipe, RunFolder(folder / "run"), shards)


def rows_of(stage: DraftStage) -> list[dict[str, Any]]:
    """What the stage published."""
    return pq.read_table(draft_table(stage.run, "refusal", 0)).to_pylist()
