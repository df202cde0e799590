"""Asks a writer for every document in every style and verifies what comes back."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document

from classifiers.errors import RecipeError
from pipeline.prompt_comparison.sources import SourceDocument
from pipeline.stages.assignments import read_answers
from rephrasers.pieces import split_text
from rephrasers.prompt_files import FOLDER, Prompt, load_prompt, read_prompt
from rephrasers.refuse import Turn
from rephrasers.servers.settings import ServerSettings
from rephrasers.verify import Draft, DraftKind, ScoreTexts, verify_all


@dataclass(frozen=True)
class Rewrite:
    """What one style made of one document. reasons: the rules that it breaks, or why there is no text; () where it passes.

    level: the text's score 0-5, also of one that no rule about words let through to be scored; None without a text.
    """

    style: str
    text: str
    reasons: tuple[str, ...]
    level: int | None

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
    documents: list[SourceDocument]
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
    longest: int,
    on_answer: Callable[[int], None] | None = None,
) -> Comparison:
    """Each document in each style; a longer one than `longest` characters, or than the context holds, by its first piece.

    Answers stay in `work_folder`, by model, sampling and prompt: asked again, only what changed is answered anew.
    """
    from rephrasers.ask import AskLLM
    from rephrasers.prompt_length import PromptFits
    from rephrasers.servers.open_servers import model_of

    fits = PromptFits(settings)
    shown = []
    for document in documents:
        [first, *_] = split_text(
            document.text, longest, lambda piece: all(fits(style.messages(piece)) for style in styles)
        )
        shown.append(
            SourceDocument(document.id, document.text[slice(*first)].strip(), document.score, document.language)
        )
    requests = [
        Document(text="", id=f"{style.name}/{document.id}", metadata={"messages": style.messages(document.text)})
        for document in shown
        for style in styles
    ]
    asking = AskLLM(lambda d: d.metadata["messages"], settings, work_folder, (), on_answer, seed=seed)
    answers = iter([document.metadata for document in asking.run(requests)])
    rows = [[(style, document, next(answers)) for style in styles] for document in shown]
    flat = iter(_verified([cell for row in rows for cell in row], score_texts, seed))
    return Comparison(
        writer=model_of(settings).description,
        sampling=settings.model_dump(mode="json", include={"temperature", "top_p", "max_tokens", "stop"})
        | {"seed": seed},
        styles=list(styles),
        documents=shown,
        rewrites=[[next(flat) for _ in row] for row in rows],
    )


def _verified(
    cells: list[tuple[Prompt, SourceDocument, dict[str, Any]]], score_texts: ScoreTexts, seed: int
) -> list[Rewrite]:
    drafts = [
        _draft(style, document, metadata["answer"], seed) for style, document, metadata in cells if "answer" in metadata
    ]
    verdicts = verify_all(drafts, score_texts)
    # What failed before it was scored is scored for the page alone: it shows at once only what reads as safe.
    levels = score_texts([draft.text for draft in drafts]) if drafts else []
    written = iter(zip(drafts, verdicts, levels, strict=True))
    rewrites = []
    for style, _, metadata in cells:
        if "answer" in metadata:
            draft, verdict, level = next(written)
            rewrites.append(Rewrite(style.name, draft.text, verdict.reasons, level))
        else:
            rewrites.append(Rewrite(style.name, "", (metadata["answer_error"].split(":")[0],), None))
    return rewrites


def _draft(style: Prompt, document: SourceDocument, answer: dict[str, Any], seed: int) -> Draft:
    kind: DraftKind = "refusal" if style.kind == "refuse" else "rephrased"
    text, turns = read_answers(kind, seed, document.id, [answer["text"]])
    assert document.score is not None  # `draw_documents` has scored it
    return Draft(
        kind=kind,
        text=text,
        turns=tuple(Turn(turn["role"], turn["text"]) for turn in turns or ()),  # type: ignore[arg-type]
        source_text=document.text,
        source_score=document.score,
        style=style.name if (FOLDER / f"{style.name}.yaml").is_file() else None,
        finish_reason=answer["finish_reason"],
        source_language=document.language,
    )
