"""Stage `ingest`: one raw file in, one shard of extracted, normalised, language-identified documents out."""

from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.atomic_files import file_sha256
from pipeline.dedup.signatures import SignatureCollector
from pipeline.ingest.decontamination import Decontaminator, read_suite, suite_file
from pipeline.ingest.documents import DOCUMENT_SCHEMA, content_sha256, normalise_text
from pipeline.ingest.extraction import PageExtractor
from pipeline.ingest.input_files import InputFile
from pipeline.ingest.read_records import ReadRecords
from pipeline.recipe import Recipe, Source
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.tables import WriteShard
from rephrasers.language import identify_language


def ingested_table(run: RunFolder, shard: int) -> Path:
    """Documents before duplicates are removed."""
    return run.root / f"ingested/{shard:05d}.parquet"


def signatures_file(run: RunFolder, shard: int) -> Path:
    """Hashes of a shard's documents, for the duplicate search."""
    return run.root / "ingested" / f"{shard:05d}.signatures.npy"


class IngestStage(Stage):
    """Reads the raw files; everything after it reads only the run folder."""

    version = 3  # 3: WARC records without an id are named by their file too, not by their offset alone

    def __init__(self, recipe: Recipe, run: RunFolder, files: list[InputFile]):
        super().__init__("ingest", recipe, run, len(files))
        self.files = files

    def settings(self) -> dict[str, Any]:
        settings = self.recipe.ingest.model_dump(exclude={"decontaminate", "dedup_buckets"})
        settings["decontaminate"] = {
            suite.name: [file_sha256(suite_file(suite)), suite.column] for suite in self.recipe.ingest.decontaminate
        }
        settings["sources"] = {s.name: s.model_dump(exclude={"path", "revision"}) for s in self.recipe.sources}
        return settings

    def raw_inputs(self, shard: int) -> dict[str, Path | str]:
        file = self.files[shard]
        return {f"{file.source}/{file.name}": file.pin if file.pin is not None else Path(file.uri)}

    def inputs(self, shard: int) -> list[ShardRef]:
        return []

    def source(self, shard: int) -> Source:
        """The recipe's source that the shard's file belongs to."""
        return next(s for s in self.recipe.sources if s.name == self.files[shard].source)

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        settings, source = self.recipe.ingest, self.source(task.shard)
        prompts = [(suite.name, prompt) for suite in settings.decontaminate for prompt in read_suite(suite)]
        signatures = SignatureCollector()

        def row(document: Document) -> dict[str, Any]:
            digest = content_sha256(document.text)
            signatures.add(document.id, digest)
            return {
                "id": document.id,
                "text": document.text,
                "source": source.name,
                "licence": source.licence,
                "url": document.metadata["url"],
                "record": document.metadata["record"],
                "language": document.metadata["language"],
                "language_probability": document.metadata["language_probability"],
                "content_sha256": digest,
            }

        return [
            ReadRecords(task, self.files[task.shard], source, settings.maximum_characters),
            ExtractPages(task, settings.extraction_seconds),
            LimitLength(task, settings.minimum_characters),
            IdentifyLanguage(task, settings.languages),
            Decontaminate(task, Decontaminator(prompts, settings.decontamination_words)),
            WriteShard(task, ingested_table(self.run, task.shard), DOCUMENT_SCHEMA, row),
            WriteSignatures(task, signatures_file(self.run, task.shard), signatures),
        ]


class ExtractPages(PipelineStep):
    """HTML to text; plain text passes. What cannot be extracted is counted under its reason."""

    type = "🛢 - EXTRAC"

    def __init__(self, task: ShardTask, seconds: float):
        super().__init__()
        self.task, self.seconds = task, seconds

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with PageExtractor(self.seconds) as extractor:
            for document in data:
                if document.metadata.pop("html"):
                    try:
                        document.text = extractor.extract(document.text)
                    except TimeoutError:
                        self._refuse(document, "extraction_timeout", f"took longer than {self.seconds} s")
                        continue
                    except (EOFError, OSError) as error:
                        self._refuse(document, "extraction_died", f"the extracting process ended ({error})")
                        continue
                    except ValueError as error:
                        self._refuse(document, "extraction_error", str(error))
                        continue
                    if not document.text.strip():
                        self._refuse(document, "no_main_text", "trafilatura found no main text in the page")
                        continue
                document.text = normalise_text(document.text)
                yield document

    def _refuse(self, document: Document, reason: str, detail: str) -> None:
        record, url = document.metadata["record"], document.metadata["url"]
        self.task.quarantine(document.id, reason, record=record, url=url, detail=detail)


class LimitLength(PipelineStep):
    """Drop texts that are too short to be a document."""

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, minimum_characters: int):
        super().__init__()
        self.task, self.minimum = task, minimum_characters

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            if len(document.text) < self.minimum:
                self.task.drop("too_short" if document.text else "empty")
                continue
            yield document


class IdentifyLanguage(PipelineStep):
    """Annotate the language; drop those that the recipe does not want."""

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, languages: list[str] | None):
        super().__init__()
        self.task, self.languages = task, languages

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            language, probability = identify_language(document.text)
            if self.languages is not None and language not in self.languages:
                self.task.drop("language")
                continue
            document.metadata |= {"language": language, "language_probability": probability}
            yield document


class Decontaminate(PipelineStep):
    """Drop documents that share an n-gram with an evaluation suite, counted by suite."""

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, decontaminator: Decontaminator):
        super().__init__()
        self.task, self.decontaminator = task, decontaminator

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            suite = self.decontaminator.find(document.text)
            if suite is not None:
                self.task.drop(f"contaminated:{suite}")
                continue
            yield document


class WriteSignatures(PipelineStep):
    """After the last document: the sorted hashes of the shard."""

    type = "💽 - WRITER"

    def __init__(self, task: ShardTask, path: Path, signatures: SignatureCollector):
        super().__init__()
        self.task, self.path, self.signatures = task, path, signatures

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        yield from data
        with self.task.output(self.path).open("wb") as file:
            np.save(file, self.signatures.sorted_array())
