"""Verification: a draft of an LLM becomes training text only if every rule for its kind holds.

Rules (names are what `Verdict.reasons` holds; `style` has the key of the prompt file's `expects` behind a colon):

| name | fails where | kinds |
|---|---|---|
| oversized | longer than 20,000 characters and four times the source; nothing else is looked at | all |
| empty | there is next to no text | all |
| truncated | the answer ended at its token limit, or in the middle of a sentence | all |
| chat_markup | control tokens, our frame lines or the harmfulness tag stand in it | all |
| loops | it goes round in circles | all |
| copied | too many of its 6-grams are the source's, or a long passage in one piece | all |
| meta_talk | the model talks about its task | all |
| language | it, or much of it, is not in the language of the source | all |
| refused | the model would not write | rephrased, moral |
| length_ratio | under 0.3 or over 3 times the source's length | rephrased |
| dialogue | an article that is still a dialogue | moral |
| two_speakers | not user and assistant in turn, the assistant last | refusal |
| complied | the assistant's last turn does not decline, or declines and yields | refusal |
| operational_detail | a user's turn carries steps, amounts, addresses or code | refusal |
| style:KEY | it is not what its prompt file expects (`checks.style`) | all |
| facts | too few numbers, dates and places of the source's safe sentences stand in it | rephrased |
| unsafe | the scores are too high (`gate`) | all |

Source: Safety Pretraining (arXiv 2504.16980) demands the qualities; rules and thresholds are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rephrasers.checks import facts, phrases, style, wording
from rephrasers.checks.languages import off_language
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from rephrasers.prompt_files import holds_control_tokens, load_prompt
from rephrasers.refuse import Turn, parse_dialogue

DraftKind = Literal["rephrased", "refusal", "moral"]
ScoreTexts = Callable[[list[str]], list[int]]

RULES_VERSION = 2
"""Raised whenever a rule's code changes what it lets through; part of the identity of the stages that verify."""

RULES = (
    "oversized", "empty", "truncated", "chat_markup", "loops", "copied", "meta_talk", "language", "refused",
    "length_ratio", "dialogue", "two_speakers", "complied", "operational_detail", "style", "facts", "unsafe",
)  # fmt: skip
"""All rules, in the order in which a draft's first reason is chosen."""

MOST_UNSAFE_TEXT = 1
# The rubric's level of "a plain request for something seriously harmful"; 5 is instructions, threats, private data.
MOST_UNSAFE_USER_TURN = 4
LARGEST_TEXT, LARGEST_RATIO = 20_000, 4
# A source shorter than this is measured as if it had this length: three sentences may be explained in ten.
SHORTEST_MEASURED_SOURCE = 250


@dataclass(frozen=True)
class Draft:
    """What an LLM wrote, and from what.

    text: the text as it would be kept (a refusal: its rendered dialogue). turns: of a refusal, else (). source_text
    and source_score (0-5): of the document, for a moral text of its dialogue and of the document behind it.
    source_language: fastText's code, or None where it is not known. style: the name of the prompt file whose
    expectations hold; None: none do.
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

    score_after: the whole text's score, or None where a rule about words failed first (it is not scored then).
    """

    accepted: bool
    reasons: tuple[str, ...]
    score_after: int | None


def rule_of(reason: str) -> str:
    """The rule behind a reason: `style` of `style:headings`."""
    return reason.partition(":")[0]


def verify_all(drafts: Sequence[Draft], score_texts: ScoreTexts) -> list[Verdict]:
    """One verdict a draft, in order. `score_texts` is the whole ensemble (0-5 a text) and is called at most once.

    Only drafts that pass all rules about their words are scored, and with them those sentences of their sources whose
    facts they may have lost. Raises ValueError where the number of scores is not the number of texts.
    """
    failed = [text_rules(draft) for draft in drafts]
    own = [[] if reasons else _texts_to_score(draft) for draft, reasons in zip(drafts, failed, strict=True)]
    fact_sentences = [{} if reasons else _facts_at_stake(draft) for draft, reasons in zip(drafts, failed, strict=True)]
    texts = list(dict.fromkeys(text for group in (*own, *fact_sentences) for text in group))
    scores = score_texts(texts) if texts else []
    if len(scores) != len(texts):
        raise ValueError(f"{len(texts)} texts were to be scored, {len(scores)} scores came back")
    level = dict(zip(texts, scores, strict=True))
    verdicts = []
    for draft, reasons, group, at_stake in zip(drafts, failed, own, fact_sentences, strict=True):
        if reasons:
            verdicts.append(Verdict(False, reasons, None))
            continue
        lost = not keeps_facts(draft, {s: found for s, found in at_stake.items() if level[s] <= MOST_UNSAFE_TEXT})
        safe = gate(draft, level[group[0]], [level[text] for text in group[1:]])
        reasons = (*(["facts"] if lost else []), *([] if safe else ["unsafe"]))
        verdicts.append(Verdict(not reasons, reasons, level[group[0]]))
    return verdicts


def verify(draft: Draft, score_texts: ScoreTexts) -> Verdict:
    """The verdict on one draft; see `verify_all`."""
    return verify_all([draft], score_texts)[0]


def text_rules(draft: Draft) -> tuple[str, ...]:
    """The reasons of the failing rules that need no score, in the order of the table."""
    # before all else: patterns on a megabyte of rubbish would cost more than the text is worth
    if len(draft.text) > max(LARGEST_TEXT, LARGEST_RATIO * len(draft.source_text)):
        return ("oversized",)
    dialogue = draft.kind == "refusal"
    still_dialogue = draft.kind == "moral" and bool(parse_dialogue(draft.text))
    rules = {
        "empty": wording.is_empty(draft.text),
        "truncated": draft.finish_reason == "length" or wording.ends_abruptly(draft.text),
        "chat_markup": holds_control_tokens(draft.text) or HARMFULNESS_TAG in draft.text,
        "loops": wording.loops(draft.text),
        "copied": wording.copies(draft.text, draft.source_text),
        "meta_talk": phrases.has_meta_talk(draft.text, ends_too=not dialogue),
        "language": off_language(draft.text, draft.source_language),
        # the refusal inside a dialogue is nobody's refusal to write
        "refused": not dialogue and not still_dialogue and phrases.refuses_to_write(draft.text),
        "length_ratio": draft.kind == "rephrased" and not _length_fits(draft),
        "dialogue": still_dialogue,
        "two_speakers": dialogue and not speakers_alternate(draft.turns),
        "complied": dialogue and not (draft.turns and phrases.declines(draft.turns[-1].text)),
        "operational_detail": any(t.role == "user" and phrases.has_operational_detail(t.text) for t in draft.turns),
    }
    return (*(name for name, fails in rules.items() if fails), *(f"style:{key}" for key in _unmet(draft)))


def gate(draft: Draft, score: int, turn_scores: Sequence[int]) -> bool:
    """Whether the scores allow the text. score: of the whole text; turn_scores: of a refusal's turns.

    Rephrased and moral texts: at most 1 and below their source. Refusals: assistant turns at most 1, user turns at
    most 4; the whole dialogue names a problem, so its score is recorded and not gated.
    """
    if draft.kind != "refusal":
        return score <= MOST_UNSAFE_TEXT and score < draft.source_score
    limits = [MOST_UNSAFE_TEXT if turn.role == "assistant" else MOST_UNSAFE_USER_TURN for turn in draft.turns]
    return all(found <= limit for found, limit in zip(turn_scores, limits, strict=True))


def keeps_facts(draft: Draft, safe_sentences: dict[str, set[facts.Fact]]) -> bool:
    """Whether enough of the facts of these sentences of the source stand in the text."""
    asked = set().union(*safe_sentences.values())
    return facts.enough(asked, facts.kept_facts(asked, draft.text))


def speakers_alternate(turns: Sequence[Turn]) -> bool:
    """True for user, assistant, user, assistant ...: the user first, the assistant last, never twice in a row."""
    return (
        len(turns) >= 2
        and len(turns) % 2 == 0
        and all(turn.role == ("user" if index % 2 == 0 else "assistant") for index, turn in enumerate(turns))
    )


def _length_fits(draft: Draft) -> bool:
    shortest, longest = wording.LENGTH_RATIO
    if wording.length_ratio(draft.text, draft.source_text) < shortest:
        return False
    return len(" ".join(draft.text.split())) <= longest * max(
        SHORTEST_MEASURED_SOURCE, len(" ".join(draft.source_text.split()))
    )


def _unmet(draft: Draft) -> tuple[str, ...]:
    if draft.style is None:
        return ()
    turns = [turn.text for turn in draft.turns] if draft.kind == "refusal" else None
    return style.unmet(draft.text, load_prompt(draft.style).expects, draft.source_language, turns)


def _texts_to_score(draft: Draft) -> list[str]:
    return [draft.text, *(turn.text for turn in draft.turns)] if draft.kind == "refusal" else [draft.text]


def _facts_at_stake(draft: Draft) -> dict[str, set[facts.Fact]]:
    """The sentences of a rephrased text's source that hold facts, if any of these is lost; else nothing."""
    if draft.kind != "rephrased":
        return {}
    found = facts.facts_by_sentence(draft.source_text)
    asked = set().union(*found.values())
    kept = facts.kept_facts(asked, draft.text)
    return {} if kept == asked or len(kept) >= facts.ENOUGH_FACTS else found
