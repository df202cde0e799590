"""Stages `card-counts` (sums of each shard, which add up over shards) and `report` (the card)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline.recipe import Recipe
from pipeline.report.phrase_lists import load_phrase_lists, phrase_lists_sha256
from pipeline.report.tallies import Tally
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.score import score_table
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.tokenise import BATCH_DOCUMENTS, synthetic_kinds
from pipeline.tables import ReadShard, read_rows
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer


def counts_file(run: RunFolder, shard: int) -> Path:
    """The card's sums of one shard."""
    return run.root / "card_counts" / f"{shard:05d}.json"


class CardCountsStage(Stage):
    """Score histogram and phrase hits of a shard's originals and synthetic texts."""

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("card-counts", recipe, run, shards)
        self.kinds = synthetic_kinds(recipe)

    def settings(self) -> dict[str, Any]:
        return {"phrase_lists": phrase_lists_sha256(load_phrase_lists())}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [
            ("documents", shard),
            ("score-final", shard),
            *((f"verify-{k}", shard) for k in self.kinds),
            ("tokenizer", 0),
        ]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        sidecars = {"final": score_table(self.run, "final", task.shard)}
        synthetic: dict[str, Path] = {kind: synthetic_table(self.run, kind, task.shard) for kind in self.kinds}
        return [
            ReadShard(task, document_table(self.run, task.shard), sidecars),
            CountForCard(task, self.run, synthetic),
        ]


class CountForCard(PipelineStep):
    """Adds up the originals that pass through, then the synthetic texts of the same shard."""

    type = "📊 - STATS"

    def __init__(self, task: ShardTask, run: RunFolder, synthetic: dict[str, Path]):
        super().__init__()
        self.task, self.run_folder, self.synthetic = task, run, synthetic

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        tokenizer, _ = load_corpus_tokenizer(self.run_folder.tokenizer())
        tally = Tally()
        for batch in batched(data, BATCH_DOCUMENTS):
            tokens = _token_counts(tokenizer, [document.text for document in batch])
            for document, count in zip(batch, tokens, strict=True):
                metadata = document.metadata
                score, language = metadata["final"]["score"], metadata["language"]
                tally.add("original", metadata["source"], score, count, document.text, language)
                self.task.keep()
                yield document
        for kind, table in self.synthetic.items():
            for rows in batched(read_rows(table), BATCH_DOCUMENTS):
                for row, count in zip(rows, _token_counts(tokenizer, [r["text"] for r in rows]), strict=True):
                    tally.add(kind, row["source"], row["score_before"], count, row["text"])
        self.task.output(counts_file(self.run_folder, self.task.shard)).write_bytes(tally.to_json())


def _token_counts(tokenizer: Any, texts: list[str]) -> Iterator[int]:
    return (len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))


class ReportStage(Stage):
    """The card in four formats; `safetrove card RUN` makes it from whatever stages are finished."""

    version = 2  # 2: the judge's health
    reads_manifests = True

    def __init__(self, recipe: Recipe, run: RunFolder, before: Sequence[Stage]):
        """`before`: all other stages of the run; the card has the ledger of each."""
        super().__init__("report", recipe, run, 1)
        self.before = [(stage.name, stage.shards) for stage in before]

    def settings(self) -> dict[str, Any]:
        return {}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [(name, number) for name, shards in self.before for number in range(shards)]

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        return [BuildCard(task, self.run)]


class BuildCard(PipelineStep):
    """`build_card` writes its files atomically itself; the ledger counts the shards that went in."""

    type = "📊 - STATS"

    def __init__(self, task: ShardTask, run: RunFolder):
        super().__init__()
        self.task, self.run_folder = task, run

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        from pipeline.report import build_card

        build_card(self.run_folder.root)
