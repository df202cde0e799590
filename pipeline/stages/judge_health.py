"""The judge's health in a run: the golden set before the first document, every answer counted, and the run stopped in time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.errors import ModelError
from classifiers.judge_health import (
    AnswerCounts,
    GoldenReport,
    HealthBounds,
    breaches,
    golden_sha256,
)
from pipeline.shard_task import ShardTask
from rephrasers.judge_requests import asked_text

# A server is asked about the golden set once in a worker's life, by its settings; its next shards use the report again.
_reports: dict[str, GoldenReport] = {}


class AskGolden(PipelineStep):
    """Before the first document passes: the golden set, asked as documents are. Raises ModelError where a bound is broken.

    `ask(work_folder)` asks the golden set; `server` is what the answers depend on. A shard without documents asks nothing.
    """

    type = "🫀 - HEALTH"
    name = "golden set"

    def __init__(
        self,
        task: ShardTask,
        bounds: HealthBounds,
        server: dict[str, Any],
        ask: Callable[[Path], GoldenReport],
    ):
        super().__init__()
        self.task, self.bounds, self.ask = task, bounds, ask
        self.key = json.dumps([server, golden_sha256()], sort_keys=True)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for number, document in enumerate(data):
            if number == 0:
                self._check()
            yield document

    def _check(self) -> None:
        if self.key not in _reports:
            _reports[self.key] = self.ask(self.task.work_folder / "golden")
        report = _reports[self.key]
        self.task.metrics["judge"] = {"golden": report.to_json()}
        _stop_where_broken(self.task, report.counts, report, self.bounds, "Nothing of the shard was asked.")


class CheckJudge(PipelineStep):
    """Reads each document's answer into `metadata["judgement"]`, counts, and raises ModelError at the end of a shard whose
    answers break a bound, so that nothing of it is published. The counts go into the manifest's metrics."""

    type = "🫀 - HEALTH"
    name = "judge"

    def __init__(
        self, task: ShardTask, bounds: HealthBounds, golden: AskGolden, asks_about: Callable[[Document], bool]
    ):
        """`asks_about`: whether a document was to be asked about; the others get the judgement None."""
        super().__init__()
        self.task, self.bounds, self.golden, self.asks_about = task, bounds, golden, asks_about

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        counts = AnswerCounts()
        for document in data:
            if not self.asks_about(document):
                document.metadata["judgement"] = None
                yield document
                continue
            asked = asked_text(document)
            counts.add(asked.judgement.outcome, asked.retries)
            document.metadata["judgement"] = asked.judgement
            yield document
        report = _reports.get(self.golden.key)
        if report is None:  # a shard without documents
            return
        self.task.metrics["judge"] = {**counts.to_json(), "golden": report.to_json()}
        _stop_where_broken(
            self.task, counts.plus(report.counts), report, self.bounds, "Nothing of the shard was published."
        )


def _stop_where_broken(
    task: ShardTask, counts: AnswerCounts, golden: GoldenReport, bounds: HealthBounds, consequence: str
) -> None:
    broken = breaches(counts, golden, bounds)
    if broken:
        raise ModelError(
            f"stage {task.stage}, shard {task.shard}: the judge is not fit to judge:\n"
            + "".join(f"  - {line}\n" for line in broken)
            + f"{consequence} Take another model (score.judge.llm.model), another score.judge.mode, or "
            "score.judge.constrained: false for an endpoint that rejects requests with fields it does not know; or, where "
            "you accept such a judge, raise the bound and run the same command again: finished shards stay."
        )
