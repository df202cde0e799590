"""Stages `tokenizer` (saved with the tag), `tokenise-<source>` (Megatron files) and `blend` (what to train on)."""

import json
import shutil
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline.atomic_files import write_json
from pipeline.manifest import Manifest
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.score import score_table
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.tag import drop_by_score, tagged_table
from pipeline.tables import ReadShard
from pipeline.tagging import insert_tag_ids, tag_positions
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer, save_corpus_tokenizer, tokenizer_revision
from rephrasers.verify import DraftKind

BATCH_DOCUMENTS = 128
UNKNOWN_LEVEL = 255  # in `.levels`: no classifier has scored this text


def token_sources(recipe: Recipe) -> list[str]:
    """The sources of the blend, in order."""
    return ["safe", "tagged", *synthetic_kinds(recipe)]


def synthetic_kinds(recipe: Recipe) -> list[DraftKind]:
    """Which kinds of synthetic text the recipe asks for."""
    if recipe.synthesis is None:
        return []
    kinds: list[DraftKind] = ["rephrased"] if recipe.synthesis.rephrase_scores else []
    if recipe.synthesis.refuse_scores:
        kinds += ["refusal", "moral"] if recipe.synthesis.moralise else ["refusal"]
    return kinds


def token_prefix(run: RunFolder, source: str, shard: int) -> Path:
    """Path of a shard's token files, without `.bin` and `.idx`."""
    return run.root / f"tokens/{source}/{shard:05d}"


class TokeniserStage(Stage):
    """The tokenizer that everything downstream reads the tag from."""

    version = 2  # 2: corpus.json has the hash of tokenizer.json

    def __init__(self, recipe: Recipe, run: RunFolder):
        super().__init__("tokenizer", recipe, run, 1)

    def settings(self) -> dict[str, Any]:
        settings = self.recipe.tokenise
        return {
            "tokenizer": settings.tokenizer,
            "revision": tokenizer_revision(settings.tokenizer),
            "end_of_document": settings.end_of_document,
        }

    def inputs(self, shard: int) -> list[ShardRef]:
        return []

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        return [SaveTokenizer(task, self.recipe, self.run)]


class SaveTokenizer(PipelineStep):
    """Write the tokenizer's folder, file by file."""

    type = "🔢 - TOKENIZER"

    def __init__(self, task: ShardTask, recipe: Recipe, run: RunFolder):
        super().__init__()
        self.task, self.recipe, self.run_folder = task, recipe, run

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        settings, scratch = self.recipe.tokenise, self.task.work_folder
        shutil.rmtree(scratch, ignore_errors=True)  # files of a task that was killed, perhaps of another tokenizer
        scratch.mkdir(parents=True, exist_ok=True)
        numbers = save_corpus_tokenizer(settings.tokenizer, settings.end_of_document, scratch)
        write_json(scratch / "corpus.json", numbers)
        for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
            file.replace(self.task.output(self.run_folder.tokenizer() / file.relative_to(scratch)))


class TokeniseStage(Stage):
    """One source's shard as Megatron `.bin/.idx`: one sequence a document, the end token after each; levels beside it."""

    version = 2  # 2: `.levels` beside the tokens

    def __init__(self, source: str, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__(f"tokenise-{source}", recipe, run, shards)
        self.source = source

    def settings(self) -> dict[str, Any]:
        return {}

    def _table(self, shard: int) -> Path:
        if self.source == "safe":
            return document_table(self.run, shard)
        if self.source == "tagged":
            return tagged_table(self.run, shard)
        return synthetic_table(self.run, self.source, shard)

    def inputs(self, shard: int) -> list[ShardRef]:
        if self.source == "safe":
            return [("documents", shard), ("score-final", shard), ("tokenizer", 0)]
        return [("tag" if self.source == "tagged" else f"verify-{self.source}", shard), ("tokenizer", 0)]

    def main_input(self, shard: int) -> str:
        return self.run.relative(self._table(shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        if self.source == "safe":
            sidecars = {"final": score_table(self.run, "final", task.shard)}
            first = [ReadShard(task, self._table(task.shard), sidecars), OnlySafe(task)]
        else:
            first = [ReadShard(task, self._table(task.shard))]
        return [*first, WriteTokens(task, self.run, token_prefix(self.run, self.source, task.shard))]


class OnlySafe(PipelineStep):
    """Documents of score 0 that are not never_train: the only originals that are trained on without a tag."""

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask):
        super().__init__()
        self.task = task

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            if not drop_by_score(self.task, document, 0, 0):
                yield document


def document_level(document: Document) -> int:
    """The rubric's score of the text that is trained on: of an original its final score, of a synthetic text its own."""
    metadata = document.metadata
    scores = (metadata.get("final", {}).get("score"), metadata.get("score_after"), metadata.get("score"))
    return next((score for score in scores if score is not None), UNKNOWN_LEVEL)


class WriteTokens(PipelineStep):
    """Encode, put the tag's ids in where the document has slots, append the end token, write.

    The ids without the tags are those of the untagged text; the tag's spelling in a text gives ordinary pieces.
    """

    type = "🔢 - TOKENIZER"

    def __init__(self, task: ShardTask, run: RunFolder, prefix: Path):
        super().__init__()
        self.task, self.run_folder, self.prefix = task, run, prefix

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        from datatrove.pipeline.tokens.megatron_tokenizer import (
            MegatronTokenizedFile,  # late: `status` has no need of it
        )

        tokenizer, numbers = load_corpus_tokenizer(self.run_folder.tokenizer())
        tag, end = numbers["tag_token_id"], numbers["end_of_document_id"]
        scratch = self.task.work_folder
        scratch.mkdir(parents=True, exist_ok=True)
        file = MegatronTokenizedFile(str(scratch), "shard", token_size=2 if numbers["dtype"] == "uint16" else 4)
        levels = bytearray()
        documents = tokens = tags = 0
        for batch in batched(data, BATCH_DOCUMENTS):
            for document, ids, count in self._encode(tokenizer, batch, tag):
                file.write([*ids, end])
                levels.append(document_level(document))
                documents, tokens, tags = documents + 1, tokens + len(ids) + 1, tags + count
                self.task.keep()
                yield document
        file.close()
        (scratch / "shard.levels").write_bytes(levels)
        for suffix in (".bin", ".idx", ".levels"):
            final = self.prefix.with_suffix(suffix)
            (scratch / f"shard{suffix}").replace(self.task.output(final))
            self.task.output_rows(final, documents)
        self.task.metrics |= {"documents": documents, "tokens": tokens, "tag_tokens": tags}

    def _encode(self, tokenizer: Any, batch: list[Document], tag: int) -> Any:
        encodings = tokenizer.encode_batch([document.text for document in batch], add_special_tokens=False)
        for document, encoding in zip(batch, encodings, strict=True):
            slots = document.metadata.get("slots") or []
            if not slots:
                yield document, encoding.ids, 0
                continue
            positions = tag_positions(document.text, encoding.offsets, slots)
            yield document, insert_tag_ids(encoding.ids, positions, tag), len(positions)


class BlendStage(Stage):
    """`tokens/blend.json`: sources, their shards, tokens and weights, and the tokenizer's numbers."""

    version = 2  # 2: the tokenizer's hash

    def __init__(self, recipe: Recipe, run: RunFolder, document_shards: int):
        super().__init__("blend", recipe, run, 1)
        self.document_shards = document_shards

    def settings(self) -> dict[str, Any]:
        return {"weights": dict(sorted(self.recipe.tokenise.weights.items()))}

    def inputs(self, shard: int) -> list[ShardRef]:
        names = token_sources(self.recipe)
        return [("tokenizer", 0), *((f"tokenise-{n}", s) for n in names for s in range(self.document_shards))]

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        return [WriteBlend(task, self.recipe, self.run, self.document_shards)]


class WriteBlend(PipelineStep):
    """Weights are tokens unless the recipe names them; they are normalised to 1 over the sources that have documents."""

    type = "💽 - WRITER"

    def __init__(self, task: ShardTask, recipe: Recipe, run: RunFolder, document_shards: int):
        super().__init__()
        self.task, self.recipe, self.run_folder, self.document_shards = task, recipe, run, document_shards

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        numbers = json.loads((self.run_folder.tokenizer() / "corpus.json").read_text(encoding="utf-8"))
        sources = []
        for name in token_sources(self.recipe):
            shards, tokens, documents = [], 0, 0
            for shard in range(self.document_shards):
                metrics = Manifest.read(self.run_folder.manifest(f"tokenise-{name}", shard)).metrics
                if metrics["documents"]:
                    shards.append(f"{name}/{shard:05d}")
                    tokens, documents = tokens + metrics["tokens"], documents + metrics["documents"]
                self.task.read(metrics["documents"])
                self.task.keep(metrics["documents"])
            if documents:
                weight = self.recipe.tokenise.weights.get(name, float(tokens))  # type: ignore[call-overload]
                sources.append(
                    {"name": name, "weight": weight, "tokens": tokens, "documents": documents, "shards": shards}
                )
        total = sum(source["weight"] for source in sources)
        for source in sources:
            source["weight"] = source["weight"] / total if total else 0.0
        value = json.dumps({**numbers, "sources": sources}, indent=1) + "\n"
        self.task.output(self.run_folder.blend()).write_text(value, encoding="utf-8")
