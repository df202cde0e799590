"""How drafts are judged, for the stages that ask again for what failed and for the stages `verify-<kind>`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic_files import file_sha256
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.assignments import prompt_hashes
from pipeline.stages.score import ClassifierStage, ensemble_levels
from rephrasers import checks
from rephrasers.refuse import Turn
from rephrasers.verify import RULES_VERSION, Draft, DraftKind, Verdict, verify_all

BATCH_DRAFTS = 64


def verifying_classifiers(recipe: Recipe) -> list[str]:
    """Who scores drafts: the recipe's classifiers that need no server (never the cascade that routed). Where the judge would
    be one of two, both of ours: fastText that decides with others is sure where it speaks, and misses most alone."""
    names: list[str] = [name for name in recipe.score.classifiers if name != "judge"]
    alone = recipe.score.classifiers == ["fasttext"]
    return names if alone or "embedding" in names else ["fasttext", "embedding"]


class Verification:
    """All rules for one kind, with classifiers that need no server (see `verifying_classifiers`)."""

    def __init__(self, kind: DraftKind, recipe: Recipe, run: RunFolder, shards: int):
        self.kind = kind
        names = verifying_classifiers(recipe)
        self.classifiers = [ClassifierStage(name, recipe, run, shards) for name in names]

    def settings(self) -> dict[str, Any]:
        """What decides a verdict beside the draft: the rules, their word lists, the prompts' expectations, the models."""
        lists = sorted(Path(checks.__file__).parent.glob("*.yaml"))
        return {
            "rules": RULES_VERSION,
            "lists": {path.name: file_sha256(path) for path in lists},
            "expectations": prompt_hashes(self.kind),
            "classifiers": {stage.classifier: stage.settings() for stage in self.classifiers},
        }

    def verdicts(self, drafts: Sequence[Draft]) -> list[Verdict]:
        """One verdict a draft, in order. The classifiers are loaded where the first draft needs them."""
        return verify_all(drafts, lambda texts: ensemble_levels(self.classifiers, texts))


def draft_of(kind: DraftKind, row: Mapping[str, Any], source_text: str) -> Draft:
    """A row of the drafts' table, and the text that the writer was shown, as a draft."""
    return Draft(
        kind=kind,
        text=row["text"],
        turns=tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"] or ()),
        source_text=source_text,
        source_score=row["score_before"],
        style=row["style"],
        finish_reason=row["finish_reason"],
        source_language=row["language"],
    )
