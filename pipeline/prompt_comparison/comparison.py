"""Asks a writer for every document in every style and verifies what comes back."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import Document

from classifiers.errors import RecipeError
from pipeline.prompt_comparison.kept_answers import ask_what_is_new
from pipeline.prompt_comparison.sources import SourceDocument
from pipeline.stages.assignments import read_answers
from pipeline.stages.pieces import finish_reason, piece_id
from rephrasers.prompt_files import FOLDER, Prompt, load_prompt, read_prompt
from rephrasers.recontextualise import Messages, rewrite_requests
from rephrasers.refuse import Turn, refusal_request
from rephrasers.servers.settings import ServerSettings
from rephrasers.verify import Draft, DraftKind, ScoreTexts, verify_all


@dataclass(frozen=True)
class Limits:
    """How a document is shown to the writer; the keys of a recipe's `synthesis` of the same names."""

    source_characters: int
    piece_characters: int
    most_pieces: int


@dataclass(frozen=True)
class ShownDocument(SourceDocument):
    """A document as the writer is shown it, in all its pieces: its text may be the beginning of `whole` characters."""

    whole: int

    @classmethod
    def of(cls, document: SourceDocument, limits: Limits) -> "ShownDocument":
        """The document up to the limit."""
        text = document.text[: limits.source_characters]
        return cls(document.id, text, document.score, document.language, len(document.text))

    @property
    def cut(self) -> bool:
        """Whether only its beginning is shown."""
        return self.whole > len(self.text)


@dataclass(frozen=True)
class Rewrite:
    """What one style made of one document. reasons: the rules that it breaks, or why there is no text; () where it passes.

    level: the text's score 0-5, also of one that no rule about words let through to be scored; None without a text.
    pieces: requests that the text was, or would have been, joined from.
    """

    style: str
    text: str
    reasons: tuple[str, ...]
    level: int | None
    pieces: int = 1

    @property
    def accepted(self) -> bool:
        """Whether it would stand in the corpus."""
        return not self.reasons


@dataclass(frozen=True)
class StyleYield:
    """How a style did: texts asked for, texts that passed, and how often each rule was broken, most often first."""

    style: str
    asked: int
    passed: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """documents: as they were shown. rewrites: by document, in the order of `styles`."""

    writer: str
    sampling: dict[str, Any]
    styles: list[Prompt]
    documents: list[ShownDocument]
    rewrites: list[list[Rewrite]]

    def yields(self) -> list[StyleYield]:
        """One row a style, in order."""
        rows = []
        for number, style in enumerate(self.styles):
            column = [row[number] for row in self.rewrites]
            reasons = Counter(reason for rewrite in column for reason in rewrite.reasons)
            ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
            rows.append(StyleYield(style.name, len(column), sum(r.accepted for r in column), ordered))
        return rows


def chosen_styles(names: Sequence[str]) -> list[Prompt]:
    """The prompts that are named: by name, or by the path of a file (`.yaml`) that is being worked on.

    Raises RecipeError for unknown or repeated names and for one that needs a dialogue, DataError for a wrong file.
    """
    styles = [read_prompt(Path(name)) if name.endswith(".yaml") else load_prompt(name) for name in names]
    repeated = [name for name, times in Counter(style.name for style in styles).items() if times > 1]
    if repeated:
        raise RecipeError(f"--styles: {repeated[0]} is given twice; give a copy of a style a name of its own")
    for style in styles:
        if style.kind == "moralise":
            raise RecipeError(f"--styles: {style.name} is written from dialogues, not from documents; leave it out")
    return styles


def compare_styles(
    documents: Sequence[SourceDocument],
    styles: Sequence[Prompt],
    settings: ServerSettings,
    work_folder: Path,
    score_texts: ScoreTexts,
    seed: int,
    limits: Limits,
    on_answer: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Each document in each style, in pieces as a run writes it; of a longer one than the limits its beginning is shown.

    Answers stay in `work_folder`, by model, sampling and prompt: asked again, only what changed is answered anew, and
    where nothing did, no server is started. on_answer: (requests answered, requests that are asked).
    """
    from rephrasers.prompt_length import PromptFits
    from rephrasers.servers.open_servers import model_of

    fits = PromptFits(settings)
    shown = [ShownDocument.of(document, limits) for document in documents]
    cells = [
        Cell(style, document, style_requests(style, document.text, limits, fits))
        for document in shown
        for style in styles
    ]
    requests = [request for cell in cells if not cell.too_long(limits) for request in cell.requests()]
    outcomes = iter(ask_what_is_new(requests, settings, work_folder, seed, on_answer))
    for cell in cells:
        if not cell.too_long(limits):
            cell.outcomes = [next(outcomes) for _ in cell.messages]
    rewrites = iter(_verified(cells, score_texts, seed))
    return Comparison(
        writer=model_of(settings).description,
        sampling=settings.model_dump(mode="json", include={"temperature", "top_p", "max_tokens", "stop"})
        | {"seed": seed},
        styles=list(styles),
        documents=shown,
        rewrites=[[next(rewrites) for _ in styles] for _ in shown],
    )


def style_requests(style: Prompt, text: str, limits: Limits, fits: Callable[[Messages], bool]) -> list[Messages]:
    """What a style is asked for about a text, as the stages ask: a rewrite by pieces, a dialogue in one request."""
    if style.kind == "refuse":
        return [refusal_request(text, limits.piece_characters, fits, style)]
    return rewrite_requests(style, text, limits.piece_characters, fits)


@dataclass
class Cell:
    """One document in one style: what is asked, and what came of it (`AskLLM`'s metadata), a piece each."""

    style: Prompt
    document: ShownDocument
    messages: list[Messages]
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    def too_long(self, limits: Limits) -> bool:
        """Whether the document needs more pieces in this style than a run would ask for."""
        return len(self.messages) > limits.most_pieces

    def requests(self) -> list[Document]:
        """A document for each piece, with an id of its own."""
        name = f"{self.style.name}/{self.document.id}"
        return [
            Document(text="", id=piece_id(name, part, len(self.messages)), metadata={"messages": messages})
            for part, messages in enumerate(self.messages, 1)
        ]

    def failure(self) -> str | None:
        """Why there is no text: the reason of the first piece without an answer; None where all have one."""
        if not self.outcomes:
            return "too_many_pieces"
        errors = [outcome["answer_error"] for outcome in self.outcomes if "answer" not in outcome]
        return errors[0].split(":")[0] if errors else None

    def draft(self, seed: int) -> Draft:
        """The pieces' answers as one text to verify."""
        kind: DraftKind = "refusal" if self.style.kind == "refuse" else "rephrased"
        answers = [outcome["answer"] for outcome in self.outcomes]
        text, turns = read_answers(kind, seed, self.document.id, [answer["text"] for answer in answers])
        assert self.document.score is not None  # `draw_documents` has scored it
        return Draft(
            kind=kind,
            text=text,
            turns=tuple(Turn(turn["role"], turn["text"]) for turn in turns or ()),  # type: ignore[arg-type]
            source_text=self.document.text,
            source_score=self.document.score,
            style=self.style.name if (FOLDER / f"{self.style.name}.yaml").is_file() else None,
            finish_reason=finish_reason(answers),
            source_language=self.document.language,
        )


def _verified(cells: list[Cell], score_texts: ScoreTexts, seed: int) -> list[Rewrite]:
    failures = [cell.failure() for cell in cells]
    drafts = [cell.draft(seed) for cell, failure in zip(cells, failures, strict=True) if failure is None]
    verdicts = verify_all(drafts, score_texts)
    # What failed before it was scored is scored for the page alone: it shows at once only what reads as safe.
    levels = score_texts([draft.text for draft in drafts]) if drafts else []
    written = iter(zip(drafts, verdicts, levels, strict=True))
    rewrites = []
    for cell, failure in zip(cells, failures, strict=True):
        pieces = len(cell.messages)
        if failure is None:
            draft, verdict, level = next(written)
            rewrites.append(Rewrite(cell.style.name, draft.text, verdict.reasons, level, pieces))
        else:
            rewrites.append(Rewrite(cell.style.name, "", (failure,), None, pieces))
    return rewrites
