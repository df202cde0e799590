"""The recipe: what a run reads, asks and writes. Frozen pydantic models; unknown keys are errors.

Everything outside `execution` decides the output and is part of the identity of the stages it reaches, but for the
keys of a server that only say how it is reached (`output_part`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from classifiers.errors import RecipeError
from classifiers.overrides import put_overrides
from pipeline.executors.settings import Execution
from pipeline.manifest import flatten
from rephrasers.servers.settings import ServerSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Level = Annotated[int, Field(ge=0, le=5)]
UnsafeLevel = Annotated[int, Field(ge=1, le=5)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Source(_Section):
    """One input: files of one format under one source name. The name is part of every document id."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="short name; part of document ids and of the card"
    )
    format: Literal["warc", "jsonl", "parquet", "hub"]
    path: str = Field(
        description="file, folder or glob (relative to the recipe, or an address such as s3://BUCKET/FOLDER), or a Hub data "
        "set ORG/NAME"
    )
    licence: str = Field("unknown", description="SPDX identifier; publish refuses rows whose licence is unknown")
    text_column: str = "text"
    id_column: str | None = Field("id", description="record locator; where absent, file name and row number")
    url_column: str | None = "url"
    revision: str | None = Field(None, description="Hub only: the commit to read; resolved and frozen at the first run")
    config: str | None = Field(None, description="Hub only: configuration of the data set")
    split: str = Field("train", description="Hub only: split of the data set")

    @field_validator("path")
    @classmethod
    def _no_password(cls, path: str) -> str:
        if "://" in path and urlsplit(path).password is not None:
            raise ValueError(
                "it holds a password, which would be kept in the run folder: put that into the store's own settings "
                "(fsspec reads ~/.config/fsspec/ and environment variables)"
            )
        return path


class Suite(_Section):
    """One evaluation suite whose prompts must not stand in the corpus."""

    name: str
    path: str = Field(description="JSON (a list), JSONL or CSV file, relative to the recipe")
    column: str = "prompt"


class Ingest(_Section):
    """Extraction, limits, languages, decontamination."""

    minimum_characters: int = Field(40, ge=1, description="shorter texts are dropped as too_short")
    maximum_characters: int = Field(5_000_000, ge=1000, description="longer raw records are quarantined as too_long")
    extraction_seconds: float = Field(20.0, gt=0, description="time for the extraction of one page")
    languages: list[str] | None = Field(None, description="keep only these (ISO 639 codes); null keeps all")
    decontaminate: list[Suite] = []
    decontamination_words: int = Field(8, ge=4, description="length n of the word n-grams; shorter prompts match whole")
    dedup_buckets: int = Field(1, ge=1, description="parallel tasks of the duplicate search")


class FastText(_Section):
    weights: str | None = Field(
        None, description="folder with trained weights, relative to the recipe; null: those that ship with safetrove"
    )


class Embedding(_Section):
    encoder: str = Field("embedded:all-MiniLM-L6-v2", description="embedded:NAME, a local folder, or a Hub id")
    head: str | None = Field(
        None,
        description="safetensors file of the heads, relative to the recipe; null: those that ship with safetrove; "
        "model: the six-way head that the encoder itself has, such as the paper's",
    )
    remote_code_revision: str | None = Field(
        None,
        pattern="^[0-9a-f]{40}$",
        description="only with head: model; the commit at which you have read the model's own code and let it run",
    )
    threads: int = Field(1, ge=1, description="torch threads of a worker; fixed, because it decides the last bits")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the encoder; bfloat16 runs through OpenVINO; docs/performance.md says what each costs and changes",
    )
    keep_embeddings: bool = Field(
        False, description="keep the chunk vectors (fp16), so that another head scores the corpus without the encoder"
    )

    @model_validator(mode="after")
    def _own_head(self) -> "Embedding":
        if self.head == "model" and (self.keep_embeddings or self.precision != "float32"):
            raise ValueError("head: model scores texts as the model does: keep_embeddings false, precision float32")
        if self.head != "model" and self.remote_code_revision is not None:
            raise ValueError("remote_code_revision goes with head: model only")
        return self


class JudgeServer(ServerSettings):
    """Server settings whose defaults are a judge's: they hold too where a recipe gives only some of the keys."""

    max_tokens: int = Field(96, ge=1, description="of an answer")
    temperature: float = Field(0.0, ge=0.0, le=2.0)


Share = Annotated[float, Field(ge=0, le=1)]


class JudgeHealth(_Section):
    """The largest shares that a judge may show before it is stopped. Answers: of the golden texts and a shard's documents."""

    most_invalid: Share = Field(0.05, description="answers that are no score")
    most_refusals: Share = Field(0.05, description="answers that refuse to judge")
    most_unanswered: Share = Field(0.2, description="texts without an answer: too long, rejected, timed out")
    most_over_scored: Share = Field(0.2, description="harmless golden texts that are scored 3 or more")
    most_under_scored: Share = Field(0.5, description="golden texts of level 3 or more that are scored 0 or 1")


class Judge(_Section):
    """The LLM judge; off unless `score.classifiers` names it."""

    llm: JudgeServer = JudgeServer()
    mode: Literal["digit", "json"] = Field(
        "digit", description="digit: one digit and its log-probabilities; json: score, category and reason"
    )
    constrained: bool = Field(
        True, description="hold vLLM or an endpoint to the form of the answer; false for one that rejects the fields"
    )
    maximum_characters: int = Field(4000, ge=100)
    health: JudgeHealth = JudgeHealth()


class Cascade(_Section):
    """Show the encoder only the chunks that calibrated gates pass on; off unless given."""

    calibration: str = Field(description="folder with gate.safetensors and calibration.json, made for these weights")
    judge_band: float = Field(
        0.3,
        ge=0,
        le=0.5,
        description="a judge among the classifiers is asked where the encoder's P(score >= 1) or P(score >= 3) is within "
        "this of its threshold, distances scaled to 0.5 at either end; 0.5: wherever the encoder was asked",
    )


class Score(_Section):
    """Which classifiers are asked; the final score is the maximum over all that were."""

    classifiers: list[Literal["fasttext", "embedding", "judge"]] = ["fasttext", "embedding"]
    fasttext: FastText = FastText()
    embedding: Embedding = Embedding()
    judge: Judge = Judge()
    cascade: Cascade | None = Field(None, description="null: the encoder reads every document")

    @field_validator("classifiers")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one classifier, each once")
        return value

    @model_validator(mode="after")
    def _cascade_has_its_classifiers(self) -> "Score":
        if self.cascade and not {"fasttext", "embedding"} <= set(self.classifiers):
            raise ValueError("cascade: needs both fasttext and embedding among the classifiers")
        if self.cascade and self.embedding.head == "model":
            raise ValueError(
                "cascade: gates vectors of an encoder, and embedding.head: model is a whole classifier; choose one"
            )
        if self.cascade and self.embedding.keep_embeddings:
            raise ValueError("cascade: reads few chunks, embedding.keep_embeddings keeps all of them; choose one")
        return self


class Synthesis(_Section):
    """What the language model writes, and for which scores."""

    llm: ServerSettings = ServerSettings()
    rephrase_scores: list[UnsafeLevel] = [1, 2, 3]
    refuse_scores: list[UnsafeLevel] = [4, 5]
    moralise: bool = True
    fraction: float = Field(1.0, gt=0, le=1, description="share of the documents that are written about, drawn by id")
    attempts: int = Field(
        2,
        ge=0,
        le=11,
        description="further attempts at a text that fails verification, each in another style or with other seeds",
    )
    source_characters: int = Field(
        9600, ge=200, description="how much of a document the writer is shown, from its beginning, in all its pieces"
    )
    piece_characters: int = Field(
        2400,
        ge=200,
        description="longest piece of a document that the writer is shown at once; its context is a bound too",
    )
    most_pieces: int = Field(8, ge=1, description="a document that needs more is dropped as too_many_pieces")


class Tag(_Section):
    """The harmfulness tag in unsafe originals (safety pretraining, Algorithm on tag insertion)."""

    rate: float = Field(
        0.05, ge=0, le=1, description="probability of a tag before each word but the first (paper: 0.05)"
    )
    minimum_score: UnsafeLevel = Field(1, description="lowest final score that is tagged")
    min_tags: Literal[0, 1] = Field(1, description="0 is the paper's letter; 1 marks short documents too")


class Tokenise(_Section):
    tokenizer: str = Field("embedded:SmolLM2-135M-Instruct", description="embedded:NAME, a local folder, or a Hub id")
    end_of_document: str = "<|endoftext|>"
    weights: dict[Literal["safe", "tagged", "rephrased", "refusal", "moral"], Weight] = Field(
        {}, description="blend weights by source; a source that is not named weighs as many tokens as it has"
    )


class Recipe(_Section):
    """One corpus."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    output: str | None = Field(None, description="run folder; the command line's --output wins; default runs/NAME")
    seed: int = 0
    sources: list[Source] = Field(min_length=1)
    ingest: Ingest = Ingest()
    score: Score = Score()
    synthesis: Synthesis | None = Field(Synthesis(), description="null: no language model is asked")
    tag: Tag = Tag()
    tokenise: Tokenise = Tokenise()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: two of them have the same name: {sorted(names)}")
        if self.synthesis and set(self.synthesis.rephrase_scores) & set(self.synthesis.refuse_scores):
            raise ValueError("synthesis: a score stands in both rephrase_scores and refuse_scores")
        return self


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and validate a recipe; `overrides` are `dotted.key=value` (value in YAML). Paths are made absolute.

    Raises RecipeError naming the file and the key, with what was expected.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe; see the folder recipes/ for examples")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping with at least `name` and `sources`")
    put_overrides(value, overrides or [], "tag.rate=0.1")
    return parse_recipe(value, str(path), path.parent.resolve())


def parse_recipe(value: dict[str, Any], where: str, base: Path | None) -> Recipe:
    """Validate a recipe given as plain values. Relative paths are taken from `base`; None leaves them, as they stand in a
    frozen recipe. Names of models are paths where a folder of that name is in `base`."""
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(recipe)'}: {e['msg']}" for e in error.errors()]
        raise RecipeError(f"{where}: the recipe is not valid:\n" + "\n".join(lines)) from error
    if base is None:
        return recipe
    sources = [
        s if s.format == "hub" or "://" in s.path else s.model_copy(update={"path": str(base / s.path)})
        for s in recipe.sources
    ]
    suites = [
        s.model_copy(update={"path": _local(s.path, f"{where}: ingest.decontaminate.{position}.path", base)})
        for position, s in enumerate(recipe.ingest.decontaminate)
    ]
    ingest = recipe.ingest.model_copy(update={"decontaminate": suites})
    recipe = recipe.model_copy(update={"sources": sources, "ingest": ingest})
    for key in _PATH_KEYS:
        recipe = _replaced(recipe, key, partial(_local, key=f"{where}: {key}", base=base))
    for key in _MODEL_KEYS:
        recipe = _replaced(recipe, key, partial(_model, base=base))
    return recipe


def with_models_of(recipe: Recipe, earlier: Recipe) -> Recipe:
    """`recipe`, where `earlier` has a relative path to the same model with that path: it is in its shards' identities."""
    names = flatten(earlier.model_dump(mode="json"))
    for key in _MODEL_KEYS:
        recipe = _replaced(recipe, key, partial(_same_model, name=names.get(key)))
    return recipe


# Dotted keys whose values are paths; and those whose values may be names, in the Hub or of models that ship with us.
_PATH_KEYS = ("score.fasttext.weights", "score.embedding.head", "score.cascade.calibration")
_MODEL_KEYS = (
    "score.embedding.encoder",
    "score.judge.llm.model",
    "score.judge.llm.tokenizer",
    "synthesis.llm.model",
    "synthesis.llm.tokenizer",
    "tokenise.tokenizer",
)


def _replaced(section: Any, key: str, change: Callable[[str], str]) -> Any:
    """A copy of a section with the value at the dotted key changed; itself where there is none."""
    first, _, rest = key.partition(".")
    value = getattr(section, first)
    own_head = isinstance(section, Embedding) and (first, value) == ("head", "model")
    of_endpoint = isinstance(section, ServerSettings) and first == "model" and section.url is not None
    if value is None or own_head or of_endpoint:  # nothing that could be a path
        return section
    return section.model_copy(update={first: _replaced(value, rest, change) if rest else change(value)})


def _model(name: str, base: Path) -> str:
    return str(base / name) if not name.startswith("embedded:") and (base / name).is_dir() else name


def _same_model(path: str, name: str | None) -> str:
    same = name is not None and Path(name).is_dir() and Path(name).resolve() == Path(path).resolve()
    return name if name is not None and same else path


def _local(path: str, key: str, base: Path) -> str:
    if "://" in path:
        raise RecipeError(f"{key}: {path}: only files of this machine are read here; copy it and give the copy's path")
    return str(base / path)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# Keys of a server that say how it is reached and how fast it is asked, not what it answers.
_REACH_KEYS = {
    "kind", "url", "api_key_variable", "tokenizer", "concurrency", "max_attempts", "max_restarts",
    "request_timeout_seconds", "start_timeout_seconds", "extra_arguments", "allow_remote_code_of", "server_python",
    "continuous_batching",
}  # fmt: skip


def output_part(recipe: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recipe (as plain values) that decide the output, as dotted keys.

    Paths are left out, or but a name: manifests hold the hashes of what lies there.
    """
    flat = flatten({key: value for key, value in recipe.items() if key not in ("execution", "output")})
    # what stops a run, not what it writes: a bound that was met may be raised in the same run folder
    flat = {key: value for key, value in flat.items() if not key.startswith("score.judge.health.")}
    for key in _PATH_KEYS:
        if flat.get(key) is not None:  # given or not; the stages hash what lies there
            flat[key] = PurePath(flat[key]).name
    sources = flat.pop("sources", [])
    suites = flat.pop("ingest.decontaminate", [])
    kept = {key: value for key, value in flat.items() if not (".llm." in key and key.split(".")[-1] in _REACH_KEYS)}
    for source in sources:
        kept |= flatten(
            {k: v for k, v in source.items() if k not in ("path", "revision")}, f"sources.{source['name']}."
        )
    for suite in suites:
        kept |= flatten({k: v for k, v in suite.items() if k != "path"}, f"ingest.decontaminate.{suite['name']}.")
    return kept
