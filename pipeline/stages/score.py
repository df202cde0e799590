"""Stages `score-fasttext`, `score-embedding`, `score-judge` (a sidecar each) and `score-final` (their maximum)."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.cascade import stage_reached
from classifiers.cascade_rules import judge_is_asked
from classifiers.decision import Decision, MostProbable
from classifiers.embedding import SHIPPED_HEAD, read_head_facts
from classifiers.ensemble import combine
from classifiers.identity import OWN_HEAD, embedding_identity, fasttext_identity, ready_identity
from classifiers.judge import judge_sha256
from classifiers.judge_health import HealthBounds
from classifiers.kept_embeddings import KeptEmbeddingsClassifier
from classifiers.never_train import LEAST_PROBABILITY, never_train_reason
from classifiers.score import Score
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.embed import ScoreKeptEmbeddings, kept_embeddings_table
from pipeline.stages.judge_health import AskGolden, CheckJudge
from pipeline.stages.language_model import LanguageModelStage, output_settings
from pipeline.tables import ReadShard, WriteShard
from rephrasers.judge_requests import JudgeRequests, ask_golden
from rephrasers.servers import ServerSettings

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
    return run.root / f"scores/{classifier}/{shard:05d}.parquet"


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
            identity = fasttext_identity(_optional_path(self.recipe.score.fasttext.weights))
            return {**identity, "alone": self.decides_alone}
        settings = self.recipe.score.embedding
        if settings.head == OWN_HEAD:
            return {
                **ready_identity(settings.encoder),
                "threads": settings.threads,
                "remote_code_revision": settings.remote_code_revision,
            }
        identity = embedding_identity(settings.encoder, _optional_path(settings.head))
        if self.reads_kept_embeddings:  # how they were made is in the identity of the stage embed
            return {**identity, "keep_embeddings": True}
        return {**identity, "threads": settings.threads, "precision": settings.precision}

    @property
    def decides_alone(self) -> bool:
        """Whether no other classifier is asked: fastText then decides for recall."""
        return self.recipe.score.classifiers == ["fasttext"]

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
            return _fasttext(_optional_path(self.recipe.score.fasttext.weights), self.decides_alone)
        settings = self.recipe.score.embedding
        if settings.head == OWN_HEAD:
            return _ready(settings.encoder, settings.threads, settings.remote_code_revision)
        return _embedding(settings.encoder, _optional_path(settings.head), settings.threads, settings.precision)


@functools.lru_cache(maxsize=1)
def _fasttext(weights: Path | None, alone: bool) -> Any:
    from classifiers.fasttext_classifier import FastTextClassifier

    return FastTextClassifier.load(weights, alone)


@functools.lru_cache(maxsize=1)
def _ready(model: str, threads: int, remote_code_revision: str | None) -> Any:
    from classifiers.ready_classifier import ReadyClassifier

    return ReadyClassifier.load(model, threads, remote_code_revision)


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


JUDGE_SCHEMA = SCORE_SCHEMA.append(
    pa.field("expected_score", pa.float32())  # null: no score, or one that came without log-probabilities
)


class JudgeStage(LanguageModelStage):
    """Asks the LLM judge; an answer that is no score leaves a null row whose reason says so. See `judge_health`."""

    version = 4  # document marks in other spellings are taken out of a document, too

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("score-judge", recipe, run, shards)
        judge = recipe.score.judge
        self.requests = JudgeRequests(judge.llm, judge.mode, judge.constrained, judge.maximum_characters)

    @property
    def llm(self) -> ServerSettings:
        return self.requests.settings()

    def settings(self) -> dict[str, Any]:
        asked = self.requests
        kept = {"mode": asked.mode, "constrained": asked.constrained}
        prompt = {"prompt": judge_sha256(asked.mode), "maximum_characters": asked.maximum_characters}
        cascade = self.recipe.score.cascade
        band = {"judge_band": cascade.judge_band, "boundaries": list(self._decision.thresholds)} if cascade else {}
        return {"llm": output_settings(asked.server), **kept, **prompt, **band}

    def inputs(self, shard: int) -> list[ShardRef]:
        cascade = [("score-embedding", shard)] if self.recipe.score.cascade else []
        return [("documents", shard), *cascade]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        bounds = HealthBounds(**self.recipe.score.judge.health.model_dump())
        server = {"settings": self.settings(), "llm": self.llm.model_dump(mode="json")}
        golden = AskGolden(task, bounds, server, functools.partial(ask_golden, self.requests))
        sidecars = {name: score_table(self.run, "embedding", rank) for name, rank in self.inputs(task.shard)[1:]}
        return [
            ReadShard(task, document_table(self.run, task.shard), sidecars),
            golden,
            self.requests.step(task.work_folder, task.report, self.asks_about),
            CheckJudge(task, bounds, golden, self.asks_about),
            WriteShard(task, score_table(self.run, "judge", task.shard), JUDGE_SCHEMA, judge_row),
        ]

    def asks_about(self, document: Document) -> bool:
        """Every document, or behind a cascade those whose embedding score leaves a decision open."""
        cascade = self.recipe.score.cascade
        if cascade is None:
            return True
        return judge_is_asked(score_of_row(document.metadata["score-embedding"]), self._decision, cascade.judge_band)

    @functools.cached_property
    def _decision(self) -> Decision | MostProbable:
        """How the encoder's probabilities become a level: the judge is asked where that is open."""
        return read_head_facts(_optional_path(self.recipe.score.embedding.head) or SHIPPED_HEAD).decision


def judge_row(document: Document) -> dict[str, Any]:
    """The sidecar row of a document with its `judgement`; the reason of a null row is what went wrong."""
    judgement = document.metadata["judgement"]
    if judgement is None:
        return score_row(document.id, None, "not_near_a_boundary")
    if judgement.score is not None:
        return {**score_row(document.id, vars(judgement.score)), "expected_score": judgement.expected_score}
    if judgement.outcome == "unanswered":
        return score_row(document.id, None, document.metadata["answer_error"].split(":")[0])
    return score_row(document.id, None, {"invalid": "invalid_answer", "refused": "refused"}[judgement.outcome])


class FinalScoreStage(Stage):
    """The ensemble: the maximum of what was asked, the category with it, and the never_train rule."""

    version = 3  # never_train: card numbers beside other fields of a record

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("score-final", recipe, run, shards)

    def settings(self) -> dict[str, Any]:
        settings = {"classifiers": sorted(self.recipe.score.classifiers), "never_train": LEAST_PROBABILITY}
        return {**settings, "cascade": True} if self.recipe.score.cascade else settings

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
                *([("stage_reached", pa.string())] if self.recipe.score.cascade else []),
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
                "stage_reached": stage_reached(scores),  # written for cascades only
            }
            yield document
        self.task.metrics["never_train"] = dict(sorted(found.items()))
