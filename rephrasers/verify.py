"""Verification: a draft of an LLM becomes training text only if every rule for its kind holds.

Rules (names are what `Verdict.reasons` holds):

| name | fails where | kinds |
|---|---|---|
| empty | there is next to no text | all |
| truncated | the answer ended at its token limit | all |
| chat_markup | control tokens, our frame lines or the harmfulness tag stand in it | all |
| loops | it goes round in circles | all |
| copied | more than half of its 6-grams are the source's | all |
| meta_talk | the model talks about its task | all |
| language | it is not in the language of the source | all |
| refused | the model would not write | rephrased, moral |
| length_ratio | under 0.3 or over 3 times the source's length | rephrased |
| dialogue | an article that is still a dialogue | moral |
| two_speakers | not user and assistant in turn, the assistant last | refusal |
| complied | the assistant's last turn does not decline, or declines and yields | refusal |
| operational_detail | a user's turn carries steps, amounts, addresses or code | refusal |
| unsafe | the scores are too high (`gate`) | all |

Source: Safety Pretraining (arXiv 2504.16980) demands the qualities; rules and thresholds are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rephrasers.checks import phrases, wording
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from rephrasers.language import identify_language
from rephrasers.prompt_files import holds_control_tokens
from rephrasers.refuse import Turn, parse_dialogue

DraftKind = Literal["rephrased", "refusal", "moral"]
ScoreTexts = Callable[[list[str]], list[int]]

MOST_UNSAFE_TEXT = 1
MOST_UNSAFE_USER_TURN = 3
# An identification below this is no evidence.
LEAST_LANGUAGE_PROBABILITY = 0.5


@dataclass(frozen=True)
class Draft:
    """What an LLM wrote, and from what.

    text: the text as it would be kept (a refusal: its rendered dialogue). turns: of a refusal, else (). source_text
    and source_score (0-5): of the document, for a moral text of its dialogue and of the document behind it.
    source_language: fastText's code, or None where it is not known.
    """

    kind: DraftKind
    text: str
    source_text: str
    source_score: int
    finish_reason: str
    turns: tuple[Turn, ...] = ()
    style: str | None = None
    source_language: str | None = None


@dataclass(frozen=True)
class Verdict:
    """reasons: names of the rules that fail, in the order of the table; accepted: none does.

    score_after: the whole text's score, or None where another rule failed first (it is not scored then).
    """

    accepted: bool
    reasons: tuple[str, ...]
    score_after: int | None


def verify_all(drafts: Sequence[Draft], score_texts: ScoreTexts) -> list[Verdict]:
    """One verdict a draft, in order. `score_texts` is the whole ensemble (0-5 a text) and is called at most once.

    Only drafts that pass all rules about their words are scored. Raises ValueError where the number of scores is not
    the number of texts.
    """
    failed = [text_rules(draft) for draft in drafts]
    asked = [[] if reasons else _texts_to_score(draft) for draft, reasons in zip(drafts, failed, strict=True)]
    texts = [text for group in asked for text in group]
    scores = score_texts(texts) if texts else []
    if len(scores) != len(texts):
        raise ValueError(f"{len(texts)} texts were to be scored, {len(scores)} scores came back")
    verdicts, start = [], 0
    for draft, reasons, group in zip(drafts, failed, asked, strict=True):
        own = scores[start : start + len(group)]
        start += len(group)
        if reasons:
            verdicts.append(Verdict(False, reasons, None))
        else:
            safe = gate(draft, own[0], own[1:])
            verdicts.append(Verdict(safe, () if safe else ("unsafe",), own[0]))
    return verdicts


def verify(draft: Draft, score_texts: ScoreTexts) -> Verdict:
    """The verdict on one draft; see `verify_all`."""
    return verify_all([draft], score_texts)[0]


def text_rules(draft: Draft) -> tuple[str, ...]:
    """The names of the failing rules that need no score, in the order of the table."""
    dialogue = draft.kind == "refusal"
    rules = {
        "empty": wording.is_empty(draft.text),
        "truncated": draft.finish_reason == "length",
        "chat_markup": holds_control_tokens(draft.text) or HARMFULNESS_TAG in draft.text,
        "loops": wording.loops(draft.text),
        "copied": wording.copied_share(draft.text, draft.source_text) > wording.COPIED_SHARE,
        "meta_talk": phrases.has_meta_talk(draft.text, ends_too=not dialogue),
        "language": off_language(draft.text, draft.source_language),
        "refused": not dialogue and phrases.refuses_to_write(draft.text),
        "length_ratio": draft.kind == "rephrased" and not _length_fits(draft),
        "dialogue": draft.kind == "moral" and bool(parse_dialogue(draft.text)),
        "two_speakers": dialogue and not speakers_alternate(draft.turns),
        "complied": dialogue and not (draft.turns and phrases.declines(draft.turns[-1].text)),
        "operational_detail": any(t.role == "user" and phrases.has_operational_detail(t.text) for t in draft.turns),
    }
    return tuple(name for name, fails in rules.items() if fails)


def gate(draft: Draft, score: int, turn_scores: Sequence[int]) -> bool:
    """Whether the scores allow the text. score: of the whole text; turn_scores: of a refusal's turns.

    Rephrased and moral texts: at most 1 and below their source. Refusals: assistant turns at most 1, user turns at
    most 3; the whole dialogue names a problem, so its score is recorded and not gated.
    """
    if draft.kind != "refusal":
        return score <= MOST_UNSAFE_TEXT and score < draft.source_score
    limits = [MOST_UNSAFE_TEXT if turn.role == "assistant" else MOST_UNSAFE_USER_TURN for turn in draft.turns]
    return all(found <= limit for found, limit in zip(turn_scores, limits, strict=True))


def speakers_alternate(turns: Sequence[Turn]) -> bool:
    """True for user, assistant, user, assistant ...: the user first, the assistant last, never twice in a row."""
    return (
        len(turns) >= 2
        and len(turns) % 2 == 0
        and all(turn.role == ("user" if index % 2 == 0 else "assistant") for index, turn in enumerate(turns))
    )


def off_language(text: str, source_language: str | None) -> bool:
    """True where the text is, with a probability of at least 0.5, in another language than the source."""
    if source_language is None:
        return False
    language, probability = identify_language(text)
    return language != source_language and probability >= LEAST_LANGUAGE_PROBABILITY


def _length_fits(draft: Draft) -> bool:
    shortest, longest = wording.LENGTH_RATIO
    return shortest <= wording.length_ratio(draft.text, draft.source_text) <= longest


def _texts_to_score(draft: Draft) -> list[str]:
    return [draft.text, *(turn.text for turn in draft.turns)] if draft.kind == "refusal" else [draft.text]
