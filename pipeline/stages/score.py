"""Stages `score-fasttext`, `score-embedding`, `score-judge` (a sidecar each) and `score-final` (their maximum)."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.ensemble import combine
from classifiers.identity import embedding_identity, fasttext_identity
from classifiers.judge import judge_messages, judge_sha256, parse_judge_answer
from classifiers.kept_embeddings import KeptEmbeddingsClassifier
from classifiers.never_train import LEAST_PROBABILITY, never_train_reason
from classifiers.score import Score
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.embed import ScoreKeptEmbeddings, kept_embeddings_table
from pipeline.stages.language_model import LanguageModelStage, output_settings
from pipeline.tables import ReadShard, WriteShard
from rephrasers.servers.settings import ServerSettings

SCORE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("score", pa.int8()),  # null: not asked, or (judge) no valid answer
        ("probability", pa.float32()),  # of the level that was given
        ("probabilities", pa.list_(pa.float32())),
        ("category", pa.string()),
        ("category_probability", pa.float32()),
        ("never_train", pa.list_(pa.float32())),
        ("n_chunks", pa.int32()),
        ("reason", pa.string()),
    ]
)


def score_table(run: RunFolder, classifier: str, shard: int) -> Path:
    """The sidecar of one classifier; `final` is the ensemble's."""
    return run.root / "scores" / classifier / f"{shard:05d}.parquet"


def score_row(document_id: str, score: dict[str, Any] | None, reason: str | None = None) -> dict[str, Any]:
    """A sidecar row; `score` None is a null row with its reason."""
    if score is None:
        return {"id": document_id, "reason": reason}
    return {"id": document_id, **score, "probability": score["probabilities"][score["score"]]}


def score_of_row(row: dict[str, Any]) -> Score | None:
    """The Score that a sidecar row holds, or None."""
    if row["score"] is None:
        return None
    kept = {key: row[key] for key in ("score", "category", "category_probability", "n_chunks", "reason")}
    return Score(**kept, probabilities=tuple(row["probabilities"]), never_train=tuple(row["never_train"] or ()))


class ClassifierStage(Stage):
    """Scores every document with one classifier, in its own sidecar."""

    version = 2  # embedding: vectors are rounded to fp16, each chunk is encoded by itself

    def __init__(self, classifier: str, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__(f"score-{classifier}", recipe, run, shards)
        self.classifier = classifier

    def settings(self) -> dict[str, Any]:
        if self.classifier == "fasttext":
            return fasttext_identity(_optional_path(self.recipe.score.fasttext.weights))
        settings = self.recipe.score.embedding
        identity = embedding_identity(settings.encoder, _optional_path(settings.head))
        if self.reads_kept_embeddings:  # how they were made is in the identity of the stage embed
            return {**identity, "keep_embeddings": True}
        return {**identity, "threads": settings.threads, "precision": settings.precision}

    @property
    def reads_kept_embeddings(self) -> bool:
        """Whether this stage scores the vectors that the stage `embed` kept, and not the texts."""
        return self.classifier == "embedding" and self.recipe.score.embedding.keep_embeddings

    def inputs(self, shard: int) -> list[ShardRef]:
        kept = [("embed", shard)] if self.reads_kept_embeddings else []
        return [("documents", shard), *kept]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        from classifiers import ScoreSafety

        def row(document: Document) -> dict[str, Any]:
            return score_row(document.id, document.metadata["safety"][self.classifier])

        documents = document_table(self.run, task.shard)
        read, score = [ReadShard(task, documents), ScoreSafety(self.load, self.classifier)]
        if self.reads_kept_embeddings:
            kept = KeptEmbeddingsClassifier(_optional_path(self.recipe.score.embedding.head))
            read = ReadShard(task, documents, {"embed": kept_embeddings_table(self.recipe, self.run, task.shard)})
            score = ScoreKeptEmbeddings(kept.score, "embed", self.classifier)
        return [read, score, WriteShard(task, score_table(self.run, self.classifier, task.shard), SCORE_SCHEMA, row)]

    def load(self) -> Any:
        """The classifier of texts; called in the worker, which keeps it for its next shards."""
        if self.classifier == "fasttext":
            return _fasttext(_optional_path(self.recipe.score.fasttext.weights))
        settings = self.recipe.score.embedding
        return _embedding(settings.encoder, _optional_path(settings.head), settings.threads, settings.precision)


@functools.lru_cache(maxsize=1)
def _fasttext(weights: Path | None) -> Any:
    from classifiers.fasttext_classifier import FastTextClassifier

    return FastTextClassifier.load(weights)


@functools.lru_cache(maxsize=1)
def _embedding(encoder: str, head: Path | None, threads: int, precision: str) -> Any:
    from classifiers.embedding import EmbeddingClassifier

    return EmbeddingClassifier.load(encoder, head, threads, precision)


def ensemble_levels(stages: "list[ClassifierStage]", texts: list[str]) -> list[int]:
    """The ensemble's level of each text, scored anew by the classifiers of `stages`."""
    columns = [stage.load().score(texts) for stage in stages]
    return [
        combine({s.classifier: score for s, score in zip(stages, row, strict=True)}).score
        for row in zip(*columns, strict=True)
    ]


def _optional_path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


class JudgeStage(LanguageModelStage):
    """Asks the LLM judge; an answer that is no score leaves a null row and is counted."""

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("score-judge", recipe, run, shards)

    @property
    def llm(self) -> ServerSettings:
        return self.recipe.score.judge.llm

    def settings(self) -> dict[str, Any]:
        maximum = self.recipe.score.judge.maximum_characters
        return {"llm": output_settings(self.llm), "prompt": judge_sha256(), "maximum_characters": maximum}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [("documents", shard)]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        from rephrasers.ask import AskLLM

        maximum = self.recipe.score.judge.maximum_characters
        invalid: dict[str, int] = {"invalid_answers": 0, "unanswered": 0}
        task.metrics["judge"] = invalid

        def row(document: Document) -> dict[str, Any]:
            if "answer" not in document.metadata:
                invalid["unanswered"] += 1
                return score_row(document.id, None, document.metadata["answer_error"].split(":")[0])
            score = parse_judge_answer(document.metadata["answer"]["text"])
            if score is None:
                invalid["invalid_answers"] += 1
                return score_row(document.id, None, "invalid_answer")
            return score_row(document.id, vars(score))

        return [
            ReadShard(task, document_table(self.run, task.shard)),
            AskLLM(
                lambda d: judge_messages(d.text, maximum), self.llm, task.work_folder, [judge_sha256()], task.report
            ),
            WriteShard(task, score_table(self.run, "judge", task.shard), SCORE_SCHEMA, row),
        ]


class FinalScoreStage(Stage):
    """The ensemble: the maximum of what was asked, the category with it, and the never_train rule."""

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("score-final", recipe, run, shards)

    def settings(self) -> dict[str, Any]:
        return {"classifiers": sorted(self.recipe.score.classifiers), "never_train": LEAST_PROBABILITY}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [("documents", shard), *((f"score-{name}", shard) for name in self.recipe.score.classifiers)]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        names = self.recipe.score.classifiers
        schema = pa.schema(
            [
                ("id", pa.string()),
                ("score", pa.int8()),
                ("category", pa.string()),
                ("never_train", pa.string()),
                *((f"by_{name}", pa.int8()) for name in sorted(names)),
            ]
        )
        sidecars = {f"score-{name}": score_table(self.run, name, task.shard) for name in names}
        return [
            ReadShard(task, document_table(self.run, task.shard), sidecars),
            CombineScores(task, names),
            WriteShard(task, score_table(self.run, "final", task.shard), schema, lambda d: d.metadata["final"]),
        ]


class CombineScores(PipelineStep):
    """Maximum over classifiers. never_train documents keep a marked row, and an entry with id and hash only."""

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, classifiers: Sequence[str]):
        super().__init__()
        self.task, self.classifiers = task, classifiers

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        found: dict[str, int] = {}
        for document in data:
            scores = {name: score_of_row(document.metadata[f"score-{name}"]) for name in self.classifiers}
            # a document for which no classifier has an answer is treated as the worst: nothing unscored is trained on
            final = combine(scores) if any(scores.values()) else None
            reason = never_train_reason(document.text, scores)
            if reason is not None:
                category = reason.partition(":")[0]
                found[category] = found.get(category, 0) + 1
                self.task.note_never_train(document.id, document.metadata["content_sha256"], reason)
            document.metadata["final"] = {
                "id": document.id,
                "score": final.score if final else 5,
                "category": final.category if final else "other",
                "never_train": reason,
                **{f"by_{name}": score.score if score else None for name, score in scores.items()},
            }
            yield document
        self.task.metrics["never_train"] = dict(sorted(found.items()))
