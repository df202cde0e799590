"""`safetrove plan`: documents, tokens, time and disk of a run, extrapolated from a sample before anything runs."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from classifiers.errors import DataError
from classifiers.judge import judge_messages
from pipeline.ingest.input_files import InputFile, list_input_files
from pipeline.plan_measure import Measured, is_local, measurable, measure_stages
from pipeline.plan_sample import ENCODER_SAMPLE, SAMPLE, SourceSample, choose_documents, read_samples
from pipeline.recipe import Recipe, Synthesis
from pipeline.run_folder import RunFolder
from pipeline.size_text import size_text
from pipeline.stages.assignments import assign_moral, assign_refusal, assign_rephrased
from pipeline.stages.dedup import document_table
from pipeline.stages.score import score_table
from pipeline.stages.synthesis import STAGE_OF_KIND
from pipeline.stages.tokenise import synthetic_kinds
from pipeline.tables import read_rows
from rephrasers.prompt_length import Messages, estimate_tokens, token_counter
from rephrasers.servers.open_servers import choose_server, model_of
from rephrasers.servers.settings import ServerSettings

BYTES_OF_A_TOKEN = 4  # of English text, for tokens that are not counted


@dataclass(frozen=True)
class Line:
    """One stage of the printed table; None is "not known before it runs"."""

    stage: str
    documents: float | None
    core_seconds: float | None
    wall_seconds: float | None
    bytes: float


@dataclass(frozen=True)
class LanguageModelLine:
    """What one stage asks a language model; `answer_tokens` is the most that the recipe allows."""

    stage: str
    documents: float
    prompt_tokens: float
    answer_tokens: float
    counted: bool


@dataclass(frozen=True)
class Scale:
    """From a sample to the whole input."""

    shards: int
    rows: float  # rows of all input files
    documents: float  # a sampled document stands for so many
    characters: float  # a sampled character stands for so many


@dataclass(frozen=True)
class Sampled:
    """What the stages took for one sample, and how it goes on to the whole input."""

    stages: dict[str, Measured]
    scale: Scale


def plan_run(recipe: Recipe) -> str:
    """The plan as text. Reads parts of the input and runs the real stages on a few documents, in a temporary folder.

    Nothing else is written, but that the embedded writer is converted in its cache where it never was. Raises
    RecipeError where a source has no files, DataError where nothing can be read or a stage fails on the sample.
    """
    files = list_input_files(recipe)
    local, notes = measurable(recipe)
    # Two samples where the recipe asks the encoder: what it takes for few documents, what all other stages take for many.
    encoder = "embedding" in local.score.classifiers
    with tempfile.TemporaryDirectory(prefix="safetrove-plan-") as folder:
        run, without = RunFolder(Path(folder) / "run"), RunFolder(Path(folder) / "without-encoder")
        samples = read_samples(recipe, files, run)
        chosen = choose_documents(samples, ENCODER_SAMPLE if encoder else SAMPLE)
        if not chosen:
            raise DataError(
                f"plan: none of the {sum(s.rows_read for s in samples)} rows that were sampled is a document; look at "
                "the files of the sources, and at text_column in the recipe"
            )
        seen = many = _measure(local, run, files, samples, chosen)
        scored = _scored(run)
        if encoder:
            rest, _ = measurable(local, encoder=False)
            many = _measure(rest, without, files, samples, choose_documents(samples, SAMPLE))
    asked = _language_model_lines(recipe, scored, seen.scale)
    lines = [_stage_line(recipe, stage, seen, many) for stage in seen.stages]
    lines += _verify_lines(min(recipe.execution.workers, len(files)), seen.stages, scored, asked)
    head = _head(recipe, samples, seen, many)
    return "\n".join(
        [
            *head,
            *_table(lines),
            *_levels(scored, seen.scale),
            *_tokens(recipe, seen, scored),
            *_asked(asked),
            *notes,
        ]
    )


def _measure(
    recipe: Recipe, run: RunFolder, files: list[InputFile], samples: list[SourceSample], chosen: list[Document]
) -> Sampled:
    scale = Scale(
        shards=len(files),
        rows=sum(s.rows_read * s.factor for s in samples),
        documents=sum(len(s.documents) * s.factor for s in samples) / len(chosen),
        characters=sum(s.characters * s.factor for s in samples) / max(1, sum(len(d.text) for d in chosen)),
    )
    return Sampled(measure_stages(recipe, run, files[0], chosen), scale)


def _scored(run: RunFolder) -> list[tuple[Document, int | None]]:
    """The sampled documents with their final scores; None for never_train."""
    scores = read_rows(score_table(run, "final", 0))
    return [
        (Document(text=row["text"], id=row["id"]), None if score["never_train"] else score["score"])
        for row, score in zip(read_rows(document_table(run, 0)), scores, strict=True)
    ]


def _stage_line(recipe: Recipe, stage: str, seen: Sampled, many: Sampled) -> Line:
    """Rows as in the sample with all scores, time and disk of a row from the larger one, where the stage has rows there."""
    rows = seen.stages[stage].rows_in * seen.scale.documents
    rated = many if stage in many.stages and many.stages[stage].rows_in else seen
    m, scale = rated.stages[stage], rated.scale
    if stage == "tokenizer":
        return Line(stage, None, m.seconds, m.start_seconds + m.seconds, m.bytes)
    workers = min(recipe.execution.workers, scale.shards)
    # Unsafe documents, by all classifiers over by fastText alone; near 1 for all other stages.
    share = rows / (m.rows_in * scale.documents) if m.rows_in else 1.0
    if stage == "dedup-find":  # one task a bucket; its work goes with the number of documents
        seconds = m.seconds * scale.documents * share
        wall = m.start_seconds + seconds / min(workers, recipe.ingest.dedup_buckets)
        return Line(stage, rows, seconds, wall, m.bytes)
    factor = scale.characters * share
    seconds = m.seconds_of_a_shard * scale.shards + (m.seconds - m.seconds_of_a_shard) * factor
    size = m.bytes_of_a_shard * scale.shards + (m.bytes - m.bytes_of_a_shard) * factor
    documents = scale.rows if stage == "ingest" else rows
    threads = recipe.score.embedding.threads if stage in ("embed", "score-embedding") else 1
    return Line(stage, documents, seconds * threads, m.start_seconds + seconds / workers, size)


def _verify_lines(
    workers: int,
    measured: dict[str, Measured],
    scored: list[tuple[Document, int | None]],
    asked: list[LanguageModelLine],
) -> list[Line]:
    """Verification scores every draft again: the time of the classifiers for as much text, at most."""
    characters = max(1, sum(len(document.text) for document, _ in scored))
    scores = [m for name, m in measured.items() if name in ("score-fasttext", "embed", "score-embedding")]
    a_character = sum(m.seconds - m.seconds_of_a_shard for m in scores) / characters
    kinds = {stage: kind for kind, stage in STAGE_OF_KIND.items()}
    lines = []
    for line in asked:
        size = line.answer_tokens * BYTES_OF_A_TOKEN
        lines.append(Line(line.stage, line.documents, None, None, size))
        if line.stage in kinds:
            seconds = size * a_character
            lines.append(Line(f"verify-{kinds[line.stage]}", line.documents, seconds, seconds / workers, size))
    return lines


def _language_model_lines(
    recipe: Recipe, scored: list[tuple[Document, int | None]], scale: Scale
) -> list[LanguageModelLine]:
    lines = []
    if "judge" in recipe.score.classifiers:
        judge = recipe.score.judge
        prompts = [[judge_messages(document.text, judge.maximum_characters, judge.mode)] for document, _ in scored]
        lines.append(_language_model_line("score-judge", judge.llm, prompts, scale.documents))
    if recipe.synthesis is None:
        return lines
    settings = recipe.synthesis
    for kind in synthetic_kinds(recipe):
        levels = settings.rephrase_scores if kind == "rephrased" else settings.refuse_scores
        texts = [(d.id, d.text[: settings.source_characters]) for d, level in scored if level in levels]
        lines.append(
            _language_model_line(
                STAGE_OF_KIND[kind],
                settings.llm,
                [_requests(kind, recipe.seed, settings, document_id, text) for document_id, text in texts],
                scale.documents * settings.fraction,
                settings.llm.max_tokens if kind == "moral" else 0,
            )
        )
    return lines


def _requests(kind: str, seed: int, settings: Synthesis, document_id: str, text: str) -> list[Messages]:
    """The real prompts of a document; that of moral texts holds a dialogue which is not written yet, so an empty one
    stands in. Where pieces end is estimated, and a document with too many is left out, as in the run."""

    def fits(messages: Messages) -> bool:
        return estimate_tokens(messages) <= settings.llm.max_prompt_tokens

    if kind == "rephrased":
        requests = assign_rephrased(seed, document_id, text, settings.piece_characters, fits).requests
        return requests if len(requests) <= settings.most_pieces else []
    if kind == "refusal":
        return assign_refusal(text, settings.piece_characters, fits).requests
    moral = assign_moral([{"role": "user", "text": ""}, {"role": "assistant", "text": ""}])
    assert moral is not None
    return moral.requests


def _language_model_line(
    stage: str, llm: ServerSettings, documents: list[list[Messages]], factor: float, more_prompt_tokens: int = 0
) -> LanguageModelLine:
    """`documents`: the prompts of each sampled document. `more_prompt_tokens`: of each prompt, for text that a language
    model has still to write."""
    name = llm.tokenizer if choose_server(llm) == "endpoint" else llm.model
    counted = name is not None and is_local(name)
    prompts = [messages for requests in documents for messages in requests]
    count = token_counter(llm, model_of(llm)) if counted and prompts else estimate_tokens
    tokens = sum(count(messages) + more_prompt_tokens for messages in prompts)
    return LanguageModelLine(
        stage, len(documents) * factor, tokens * factor, len(prompts) * factor * llm.max_tokens, counted
    )


def _head(recipe: Recipe, samples: list[SourceSample], seen: Sampled, many: Sampled) -> list[str]:
    lines = [f"Plan of {recipe.name}: an extrapolation from a sample, measured on this machine. Nothing was run.", ""]
    for s in samples:
        size = "size unknown (its store does not say)" if s.bytes is None else size_text(s.bytes)
        read = f"{s.files_read} read in part, {size_text(s.bytes_read)}, {s.rows_read} rows"
        lines.append(f"source {s.source}: {_count(s.files)} files, {size}; {read}")
        if s.bytes is None:
            lines.append("  WARNING: extrapolated by the number of files; files of different sizes make this wrong")
    small = "" if many is seen else f", {seen.stages['ingest'].kept} of them through the encoder too"
    lines.append(
        f"sample: {many.stages['ingest'].kept} documents through the real stages{small}; times and disk extrapolated by characters, documents "
        "by bytes of input"
    )
    lines.append(
        f"wall time: with execution.workers {recipe.execution.workers}; starting workers and loading their models is in it, once a stage"
    )
    return [*lines, ""]


def _table(lines: list[Line]) -> list[str]:
    rows = [("stage", "documents in", "s/document", "core-hours", "wall time", "disk")]
    for line in lines:
        each = "-"
        if line.core_seconds is not None and line.documents:
            each = f"{line.core_seconds / line.documents:.5f}"
        core = "server" if line.core_seconds is None else f"{line.core_seconds / 3600:.4f}"
        documents = "-" if line.documents is None else _count(line.documents)
        rows.append((line.stage, documents, each, core, _duration(line.wall_seconds), size_text(line.bytes)))
    core_seconds = sum(line.core_seconds or 0.0 for line in lines)
    wall = sum(line.wall_seconds or 0.0 for line in lines)
    size = sum(line.bytes for line in lines)
    rows.append(("total", "", "", f"{core_seconds / 3600:.4f}", _duration(wall), size_text(size)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _levels(scored: list[tuple[Document, int | None]], scale: Scale) -> list[str]:
    levels = Counter("never_train" if level is None else str(level) for _, level in scored)
    shown = ", ".join(f"{level}: {_count(levels[level] * scale.documents)}" for level in sorted(levels))
    return ["", f"documents after ingest: {_count(len(scored) * scale.documents)}; by final score: {shown}"]


def _tokens(recipe: Recipe, seen: Sampled, scored: list[tuple[Document, int | None]]) -> list[str]:
    name = recipe.tokenise.tokenizer
    if "tokenise-safe" not in seen.stages:
        estimate = sum(len(d.text.encode()) for d, level in scored if level is not None) / BYTES_OF_A_TOKEN
        return [
            f"tokens of originals: about {_count(estimate * seen.scale.characters)} at {BYTES_OF_A_TOKEN} bytes each; "
            f"tokenizer {name} is on the Hub, so tokenise and card-counts were not measured"
        ]
    counts = {
        source: seen.stages[f"tokenise-{source}"].metrics["tokens"] * seen.scale.characters
        for source in ("safe", "tagged")
    }
    return [f"tokens ({name}): " + ", ".join(f"{source} {_count(n)}" for source, n in counts.items())]


def _asked(asked: list[LanguageModelLine]) -> list[str]:
    if not asked:
        return ["no language model is asked"]
    lines = ["", "language model (the time depends on the server):"]
    for line in asked:
        how = "counted with the model's tokenizer" if line.counted else "estimated from bytes"
        lines.append(
            f"  {line.stage}: {_count(line.documents)} documents, {_count(line.prompt_tokens)} prompt tokens ({how}), "
            f"at most {_count(line.answer_tokens)} answer tokens"
        )
        if not line.documents:
            lines.append("    none of the sampled documents has such a score; the real number need not be 0")
    return lines


def _count(value: float) -> str:
    return f"{round(value):,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "server"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
