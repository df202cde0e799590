"""Stages `rephrase`, `refuse` and `moralise`: an LLM writes drafts, one file each, with their lineage.

Drafts are what the model said; nothing is trained on before `verify-<kind>` has let it through.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.recipe import Recipe
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
from pipeline.stages.dedup import document_table
from pipeline.stages.language_model import LanguageModelStage, output_settings
from pipeline.stages.pieces import Assign, JoinPieces, finish_reason
from pipeline.stages.score import score_table
from pipeline.stages.tag import drop_by_score
from pipeline.tables import ReadShard, WriteShard
from rephrasers.keyed_draws import keyed_uniforms

STAGE_OF_KIND = {"rephrased": "rephrase", "refusal": "refuse", "moral": "moralise"}

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
    ]
)


def draft_table(run: RunFolder, kind: str, shard: int) -> Path:
    """What the language model wrote, before verification."""
    return run.root / "drafts" / kind / f"{shard:05d}.parquet"


def synthetic_table(run: RunFolder, kind: str, shard: int) -> Path:
    """The drafts that passed verification."""
    return run.root / "synthetic" / kind / f"{shard:05d}.parquet"


def synthetic_id(kind: str, source_id: str) -> str:
    """128-bit id of the text of one kind that is written from one document."""
    return hashlib.blake2b(f"{kind}\0{source_id}".encode(), digest_size=16).hexdigest()


class DraftStage(LanguageModelStage):
    """Asks the writer for one kind of text. rephrased and refusal read documents; moral reads the refusals' drafts."""

    version = 2  # long documents in pieces, a seed and stop strings in each request

    def __init__(self, kind: str, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__(STAGE_OF_KIND[kind], recipe, run, shards)
        self.kind = kind

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
        }
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
        from rephrasers.ask import AskLLM
        from rephrasers.prompt_length import PromptFits

        assert self.recipe.synthesis is not None
        synthesis, seed = self.recipe.synthesis, self.recipe.seed
        table = self._input(task.shard)[1]
        first: list[PipelineStep] = [ReadShard(task, table)]
        if self.kind != "moral":
            sidecars = {"final": score_table(self.run, "final", task.shard)}
            first = [ReadShard(task, table, sidecars), ToWriteAbout(task, self.scores, synthesis.fraction, seed)]
        fits = PromptFits(self.llm)

        def assignment(document: Document) -> Assignment | None:
            if self.kind == "moral":
                return assign_moral(document.metadata["turns"])
            text, longest = document.text[: synthesis.source_characters], synthesis.piece_characters
            if self.kind == "refusal":
                return assign_refusal(text, longest, fits)
            return assign_rephrased(seed, document.id, text, longest, fits)

        assign = Assign(task, assignment, synthesis.most_pieces)
        hashes = list(prompt_hashes(self.kind).values())
        return [
            *first,
            assign,
            AskLLM(lambda d: d.metadata["messages"], self.llm, task.work_folder, hashes, assign.report, seed=seed),
            JoinPieces(),
            WriteShard(task, draft_table(self.run, self.kind, task.shard), DRAFT_SCHEMA, DraftRow(self, task)),
        ]


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
    """Turns an answered document into a draft's row; a document without an answer goes to quarantine."""

    def __init__(self, stage: DraftStage, task: ShardTask):
        from rephrasers.servers.open_servers import model_of

        self.stage, self.task, self.model = stage, task, model_of(stage.llm)
        self.sampling = json.dumps(output_settings(stage.llm), sort_keys=True)

    def __call__(self, document: Document) -> dict[str, Any] | None:
        metadata = document.metadata
        if "answers" not in metadata:
            self.task.quarantine(document.id, metadata["answer_error"].split(":")[0], detail=metadata["answer_error"])
            return None
        answers, (style, version, sha256) = metadata["answers"], metadata["prompt"]
        texts = [answer["text"] for answer in answers]
        text, turns = read_answers(self.stage.kind, self.stage.recipe.seed, document.id, texts)
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
            "seed": self.stage.recipe.seed,
            "finish_reason": finish_reason(answers),
            "pieces": len(answers),
        }
