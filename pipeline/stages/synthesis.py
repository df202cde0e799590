"""Stages `rephrase`, `refuse` and `moralise`: an LLM writes drafts, one file each, with their lineage.

Drafts are what the model said; nothing is trained on before `verify-<kind>` has let it through.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.recipe import Recipe
from pipeline.report.run_summary import without_folders
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef
from pipeline.stages.assignments import (
    Assignment,
    assign_moral,
    assign_refusal,
    assign_rephrased,
    prompt_hashes,
    read_answers,
)
from pipeline.stages.attempts import Attempts
from pipeline.stages.dedup import document_table
from pipeline.stages.language_model import LanguageModelStage, output_settings
from pipeline.stages.pieces import Assign, JoinPieces, finish_reason
from pipeline.stages.score import score_table
from pipeline.stages.tag import drop_by_score
from pipeline.stages.verification import Verification, draft_of
from pipeline.tables import ReadShard, WriteShard
from rephrasers.attempts import seed_of_attempt
from rephrasers.keyed_draws import keyed_uniforms
from rephrasers.verify import DraftKind, Verdict

STAGE_OF_KIND = {"rephrased": "rephrase", "refusal": "refuse", "moral": "moralise"}

# Every attempt at a document. reasons: the rules that the draft broke, empty where it passed; null: not verified yet.
ATTEMPTS_TYPE = pa.list_(
    pa.struct(
        [
            ("attempt", pa.int8()),
            ("style", pa.string()),
            ("seed", pa.int64()),
            ("reasons", pa.list_(pa.string())),
        ]
    )
)

DRAFT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("source_id", pa.string()),  # the document or, for moral texts, the dialogue that it was written from
        ("source", pa.string()),
        ("licence", pa.string()),
        ("language", pa.string()),
        ("category", pa.string()),
        ("score_before", pa.int8()),
        ("style", pa.string()),
        ("prompt_version", pa.string()),
        ("prompt_sha256", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("sampling", pa.string()),
        ("seed", pa.int64()),
        ("finish_reason", pa.string()),
        ("pieces", pa.int32()),  # requests that the text was joined from
        ("attempt", pa.int8()),  # number of the attempt that this draft is
        ("attempt_seed", pa.int64()),  # what its requests' sampling seeds are drawn from; null: none are sent
        ("attempts", ATTEMPTS_TYPE),
    ]
)


def draft_table(run: RunFolder, kind: str, shard: int) -> Path:
    """What the language model wrote, before verification."""
    return run.root / f"drafts/{kind}/{shard:05d}.parquet"


def synthetic_table(run: RunFolder, kind: str, shard: int) -> Path:
    """The drafts that passed verification."""
    return run.root / f"synthetic/{kind}/{shard:05d}.parquet"


def synthetic_id(kind: str, source_id: str) -> str:
    """128-bit id of the text of one kind that is written from one document."""
    return hashlib.blake2b(f"{kind}\0{source_id}".encode(), digest_size=16).hexdigest()


class DraftStage(LanguageModelStage):
    """Asks the writer for one kind of text. rephrased and refusal read documents; moral reads the refusals' drafts."""

    version = 2  # long documents in pieces, a seed and stop strings in each request, further attempts

    def __init__(self, kind: DraftKind, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__(STAGE_OF_KIND[kind], recipe, run, shards)
        self.kind: DraftKind = kind
        self.verification = Verification(kind, recipe, run, shards)

    @property
    def last_attempt(self) -> int:
        """How often a document may be asked about. At temperature 0 the one prompt of a kind gets the same answer again."""
        assert self.recipe.synthesis is not None
        differs = self.kind == "rephrased" or self.llm.temperature > 0
        return 1 + self.recipe.synthesis.attempts * differs

    @property
    def scores(self) -> list[int]:
        """The final scores that this kind is written for."""
        assert self.recipe.synthesis is not None
        wanted = {"rephrased": self.recipe.synthesis.rephrase_scores, "refusal": self.recipe.synthesis.refuse_scores}
        return sorted(wanted.get(self.kind, []))

    def settings(self) -> dict[str, Any]:
        assert self.recipe.synthesis is not None
        settings: dict[str, Any] = {
            "llm": output_settings(self.llm),
            "prompts": prompt_hashes(self.kind),
            "seed": self.recipe.seed,
            "attempts": self.last_attempt,
        }
        if self.last_attempt > 1:  # its verdicts decide what is asked again
            settings["verification"] = self.verification.settings()
        if self.kind != "moral":
            settings |= {
                "fraction": self.recipe.synthesis.fraction,
                "scores": self.scores,
                "source_characters": self.recipe.synthesis.source_characters,
                "piece_characters": self.recipe.synthesis.piece_characters,
                "most_pieces": self.recipe.synthesis.most_pieces,
            }
        return settings

    def _input(self, shard: int) -> tuple[list[ShardRef], Path]:
        if self.kind == "moral":
            return [("refuse", shard)], draft_table(self.run, "refusal", shard)
        return [("documents", shard), ("score-final", shard)], document_table(self.run, shard)

    def inputs(self, shard: int) -> list[ShardRef]:
        return self._input(shard)[0]

    def main_input(self, shard: int) -> str:
        return self.run.relative(self._input(shard)[1])

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        assert self.recipe.synthesis is not None
        table = self._input(task.shard)[1]
        first: list[PipelineStep] = [ReadShard(task, table)]
        if self.kind != "moral":
            sidecars = {"final": score_table(self.run, "final", task.shard)}
            share = self.recipe.synthesis.fraction
            first = [ReadShard(task, table, sidecars), ToWriteAbout(task, self.scores, share, self.recipe.seed)]
        folder = task.work_folder / "rounds"
        return [
            *first,
            Attempts(self.last_attempt, folder, Asking(self, task), DraftRow(self), self._verdicts),
            WriteShard(task, draft_table(self.run, self.kind, task.shard), DRAFT_SCHEMA, RowOrQuarantine(task)),
        ]

    def _verdicts(self, drafts: list[tuple[Document, dict[str, Any]]]) -> list[Verdict]:
        assert self.recipe.synthesis is not None
        shown = self.recipe.synthesis.source_characters
        return self.verification.verdicts([draft_of(self.kind, row, d.text[:shown]) for d, row in drafts])


class Asking:
    """One attempt at documents: their prompts, the server's answers, and the pieces of long documents joined again."""

    def __init__(self, stage: DraftStage, task: ShardTask):
        from rephrasers.prompt_length import PromptFits

        self.stage, self.task, self.fits = stage, task, PromptFits(stage.llm)

    def __call__(self, attempt: int, documents: Iterator[Document], rank: int) -> Iterator[Document]:
        from rephrasers.ask import AskLLM

        stage, task = self.stage, self.task
        assert stage.recipe.synthesis is not None
        assign = Assign(task, lambda d: self._assignment(attempt, d), stage.recipe.synthesis.most_pieces)
        ask = AskLLM(
            lambda d: d.metadata["messages"],
            stage.llm,
            # answers are kept by id: those of another attempt must not be found
            task.work_folder if attempt == 1 else task.work_folder / f"attempt-{attempt}",
            list(prompt_hashes(stage.kind).values()),
            assign.report,
            seed=seed_of_attempt(stage.recipe.seed, attempt),
        )
        for step in (assign, ask, JoinPieces()):
            documents = step.run(documents, rank)
        yield from documents
        counted = Counter(task.metrics.get("requests", {})) + ask.counts
        task.metrics["requests"] = dict(sorted(counted.items()))

    def _assignment(self, attempt: int, document: Document) -> Assignment | None:
        synthesis, seed = self.stage.recipe.synthesis, self.stage.recipe.seed
        assert synthesis is not None
        if self.stage.kind == "moral":
            return assign_moral(document.metadata["turns"])
        text, longest = document.text[: synthesis.source_characters], synthesis.piece_characters
        if self.stage.kind == "refusal":
            return assign_refusal(text, longest, self.fits)
        return assign_rephrased(seed, document.id, text, longest, self.fits, attempt)


class ToWriteAbout(PipelineStep):
    """Documents that may be written about, with the wanted final scores, and of these the share that is asked for.

    The share is drawn from (seed, id), stream "synthesis"; shares are nested.
    """

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, scores: list[int], fraction: float, seed: int):
        super().__init__()
        self.task, self.scores, self.fraction, self.seed = task, scores, fraction, seed

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            if drop_by_score(self.task, document, 0, 5):
                continue
            score = document.metadata["final"]["score"]
            if score not in self.scores:
                self.task.drop(f"score_{score}")
                continue
            if keyed_uniforms(self.seed, "synthesis", document.id, 1)[0] >= self.fraction:
                self.task.drop("not_drawn")
                continue
            document.metadata |= {"score_before": score, "category": document.metadata["final"]["category"]}
            yield document


class DraftRow:
    """Turns an answered document into its draft's row; the list of all attempts is added when the last one is done."""

    def __init__(self, stage: DraftStage):
        from rephrasers.servers.open_servers import model_of

        self.stage, self.model = stage, model_of(stage.llm)
        # The rows are published: the folders of the machine they were made on stay out of them.
        shown = {**output_settings(stage.llm), "model": without_folders(stage.llm.model)}
        self.sampling = json.dumps(shown, sort_keys=True)

    def __call__(self, attempt: int, document: Document) -> dict[str, Any]:
        metadata, seed = document.metadata, self.stage.recipe.seed
        answers, (style, version, sha256) = metadata["answers"], metadata["prompt"]
        texts = [answer["text"] for answer in answers]
        text, turns = read_answers(self.stage.kind, seed, document.id, texts)
        return {
            "id": synthetic_id(self.stage.kind, document.id),
            "text": text,
            "turns": turns,
            "source_id": document.id,
            **{key: metadata[key] for key in ("source", "licence", "language", "category", "score_before")},
            "style": style,
            "prompt_version": str(version),
            "prompt_sha256": sha256,
            "model": self.model.description,
            "revision": self.model.revision,
            "sampling": self.sampling,
            "seed": seed,
            "finish_reason": finish_reason(answers),
            "pieces": len(answers),
            "attempt": attempt,
            "attempt_seed": seed_of_attempt(seed, attempt) if self.stage.llm.send_seeds else None,
        }


class RowOrQuarantine:
    """The row of a document's last draft; a document without any answer goes to quarantine."""

    def __init__(self, task: ShardTask):
        self.task = task

    def __call__(self, document: Document) -> dict[str, Any] | None:
        row: dict[str, Any] | None = document.metadata["row"]
        if row is None:
            error = document.metadata["answer_error"]
            self.task.quarantine(document.id, error.split(":")[0], detail=error)
        return row
