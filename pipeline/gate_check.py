"""Scores the texts under `synthetic/` anew and holds them against the gate of their kind, apart from any stage.

It reads the texts that a corpus is made of and nothing that a stage concluded about them: no verdict, no `score_after`.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.utils.batching import batched

from classifiers.errors import DataError
from pipeline.run import load_frozen_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.score import ensemble_levels
from pipeline.stages.tokenise import synthetic_kinds
from pipeline.stages.verification import Verification, draft_of
from pipeline.tables import read_rows
from rephrasers.verify import Draft, gate, speakers_alternate

TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class GateCheck:
    """What was found for one kind. failing: (file, id) of each text that its gate should have stopped."""

    kind: str
    shards: int
    texts: int
    failing: list[tuple[Path, str]]

    @property
    def failing_shards(self) -> list[int]:
        """The shards that hold failing texts: a table is named by the number of its shard."""
        return sorted({int(table.stem) for table, _ in self.failing})


def check_gates(run: RunFolder) -> list[GateCheck]:
    """One result for each kind of the run's recipe, with the classifiers that verification uses.

    A kind without texts is no fault: its yield was zero. Raises DataError where the recipe asks no language model, or no
    shard of a kind was verified yet.
    """
    recipe = load_frozen_recipe(run)
    kinds = synthetic_kinds(recipe)
    if not kinds:
        raise DataError(f"{run.root}: this run has no synthetic texts: its recipe asks no language model")
    results = []
    for kind in kinds:
        tables = sorted((run.root / "synthetic" / kind).glob("*.parquet"))
        if not tables:
            raise DataError(f"{run.root}: no shard of verify-{kind} is finished; run `safetrove status {run.root}`")
        classifiers = Verification(kind, recipe, run, 0).classifiers
        failing = []
        for table in tables:
            for rows in batched(read_rows(table), TEXTS_AT_ONCE):
                drafts = [draft_of(kind, row, "") for row in rows]
                texts = list(dict.fromkeys(text for draft in drafts for text in _judged(draft)))
                level = dict(zip(texts, ensemble_levels(classifiers, texts), strict=True))
                passed = [_passes(draft, level) for draft in drafts]
                failing += [(table, row["id"]) for row, fine in zip(rows, passed, strict=True) if not fine]
        texts_found = sum(pq.read_metadata(table).num_rows for table in tables)
        results.append(GateCheck(kind, len(tables), texts_found, failing))
    return results


def _judged(draft: Draft) -> list[str]:
    return [turn.text for turn in draft.turns] if draft.kind == "refusal" else [draft.text]


def _passes(draft: Draft, level: dict[str, int]) -> bool:
    """The gate on new scores; of a dialogue also that its turns are those of the text and in order."""
    judged = _judged(draft)
    if draft.kind == "refusal":
        whole = speakers_alternate(draft.turns) and all(text in draft.text for text in judged)
        # the score of the whole dialogue is recorded and not gated
        return whole and gate(draft, 0, [level[text] for text in judged])
    return gate(draft, level[draft.text], [])
