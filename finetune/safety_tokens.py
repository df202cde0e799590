"""The set of safety tokens: ids that open the model's refusals and not its other answers. The rules are ours (the paper's is
not known); the sheet on Safety Token Regularization says why the lift test: it takes out what every answer begins with."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from finetune.chat_data import checked_messages, prompt_ids, read_json_lines, special_tokens
from finetune.errors import FinetuneDataError, SafetyTokenError
from rephrasers.checks.phrases import declines
from rephrasers.keyed_draws import keyed_uniforms

OPENINGS_FILE = Path(__file__).with_name("refusal_openings.yaml")


class TokenSettings(BaseModel):
    """Where the set of safety tokens comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["mined", "templates", "given"] = Field(
        "mined",
        description="mined: the starting model's own refusals, and templates, by the lift test; templates: ids of our refusal "
        "openings without stop words; given: `ids`",
    )
    ids: tuple[int, ...] = Field(
        (), description="with `given`: the set itself, for example of another run's finetune.json"
    )
    harmful_prompts: Path | None = Field(
        None,
        description="with `mined`: JSON lines (`prompt`) that the model should refuse; never those of an evaluation",
    )
    prompts: int = Field(
        200, ge=1, description="with `mined`: so many of them, and of the rows' first questions, are answered"
    )
    answer_tokens: int = Field(40, ge=1, description="with `mined`: tokens of an answer, to tell refusals by")
    window: int = Field(8, ge=1, description="tokens at an answer's beginning that are counted")
    least_refusals: int = Field(10, ge=1, description="with `mined`: fewer refusals are no sample, and an error")
    least_share: float = Field(0.1, gt=0, le=1, description="share of the refusals whose opening holds the token")
    least_lift: float = Field(3.0, ge=1, description="that share over the token's share in openings of benign answers")
    most: int = Field(50, ge=1, description="only so many, the most frequent in refusals first")
    random_control: bool = Field(
        False, description="a control: as many random tokens of the rows' answers in place of the set"
    )


@dataclass(frozen=True)
class MinedToken:
    """`refusal_share`, `benign_share`: shares of openings that hold the token."""

    id: int
    refusal_share: float
    benign_share: float


def mine_safety_tokens(
    refusals: Sequence[Sequence[int]], benign: Sequence[Sequence[int]], least_share: float, least_lift: float
) -> list[MinedToken]:
    """Tokens in at least `least_share` of the refusals' openings, `least_lift` times as frequent there as in benign ones.

    Each opening counts a token once, so the order of openings and of tokens in them does not matter. The most frequent come
    first; ties by benign share, then id.
    """
    refused, answered = _shares(refusals), _shares(benign)
    tokens = [MinedToken(token, share, answered.get(token, 0.0)) for token, share in refused.items()]
    kept = [t for t in tokens if t.refusal_share >= least_share and t.refusal_share >= least_lift * t.benign_share]
    return sorted(kept, key=lambda token: (-token.refusal_share, token.benign_share, token.id))


def _shares(openings: Sequence[Sequence[int]]) -> dict[int, float]:
    counts = Counter(token for opening in openings for token in set(opening))
    return {token: count / len(openings) for token, count in counts.items()}


def template_openings(tokenizer: Any) -> list[list[int]]:
    """Token ids of our refusal openings: as they are, with a small first letter, each with and without a leading space."""
    texts = [
        f"{space}{form}" for text in _lists()[0] for form in (text, text[0].lower() + text[1:]) for space in ("", " ")
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def template_token_ids(tokenizer: Any) -> list[int]:
    """All ids of `template_openings` but stop words, what has no letter, and special tokens; sorted."""
    stop, special = _lists()[1], special_tokens(tokenizer)
    ids = {token for opening in template_openings(tokenizer) for token in opening} - special.keys()
    words = {token: tokenizer.decode([token]).strip().lower() for token in ids}
    return sorted(token for token, word in words.items() if word not in stop and any(map(str.isalpha, word)))


@cache
def _lists() -> tuple[tuple[str, ...], frozenset[str]]:
    values = yaml.safe_load(OPENINGS_FILE.read_text(encoding="utf-8"))
    return tuple(values["openings"]), frozenset(values["stop_words"])


def find_safety_tokens(
    settings: TokenSettings,
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    answers: Sequence[Sequence[int]],
    seed: int,
) -> dict[str, Any]:
    """`{"ids", "tokens", "rule", ...}` for the result file, by the settings' rule. `questions`: the rows' first ones;
    `answers`: ids of the rows' answers. The model answers as it stands: give it before it is trained.

    Raises SafetyTokenError where the set is empty, FinetuneDataError where the prompts are missing or too few are refused.
    """
    facts: dict[str, Any] = {"rule": settings.rule}
    if settings.rule == "given":
        ids = list(settings.ids)
    elif settings.rule == "templates":
        ids = template_token_ids(tokenizer)[: settings.most]
    else:
        mined, counts = _mined(settings, model, tokenizer, questions, seed)
        ids, facts = [token.id for token in mined], facts | counts | {"mined": [asdict(token) for token in mined]}
    if not ids:
        raise SafetyTokenError(
            f"tokens.rule {settings.rule!r} finds no safety token: lower tokens.least_share or tokens.least_lift, take "
            "`templates`, or give ids"
        )
    if settings.random_control:
        facts["in_place_of"] = ids
        ids = random_tokens(len(ids), answers, {*ids, *special_tokens(tokenizer)}, seed)
    return {"ids": ids, "tokens": [tokenizer.decode([token]) for token in ids], **facts}


def random_tokens(count: int, answers: Sequence[Sequence[int]], barred: Iterable[int], seed: int) -> list[int]:
    """`count` tokens drawn from the distinct ones of the answers, without the barred; sorted. Raises SafetyTokenError."""
    candidates = sorted({token for answer in answers for token in answer} - set(barred))
    if len(candidates) < count:
        raise SafetyTokenError(f"{len(candidates)} tokens occur in the answers, {count} are to be drawn: use more rows")
    draws = keyed_uniforms(seed, "finetune-random-tokens", "control", len(candidates))
    return sorted(candidates[place] for place in draws.argsort()[:count])


def read_prompts(path: Path) -> list[str]:
    """The `prompt` of each line. Raises FinetuneDataError that names file and line."""
    prompts = []
    for place, row in read_json_lines(path):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise FinetuneDataError(f"{place}: no `prompt` that is a text")
        prompts.append(row["prompt"])
    return prompts


def _mined(
    settings: TokenSettings, model: Any, tokenizer: Any, questions: Sequence[str], seed: int
) -> tuple[list[MinedToken], dict[str, int]]:
    if settings.harmful_prompts is None:
        raise FinetuneDataError("tokens.rule mined needs tokens.harmful_prompts: JSON lines with a `prompt` each")
    harmful = _some(read_prompts(settings.harmful_prompts), settings.prompts, seed)
    harmful_answers = greedy_answers(model, tokenizer, harmful, settings.answer_tokens)
    refusals = [ids for ids in harmful_answers if declines(tokenizer.decode(ids, skip_special_tokens=True))]
    if len(refusals) < settings.least_refusals:
        raise FinetuneDataError(
            f"the starting model refuses {len(refusals)} of {len(harmful)} harmful prompts, and {settings.least_refusals} are "
            "needed (tokens.least_refusals): there is little to keep; align the model first, or take tokens.rule templates"
        )
    benign = greedy_answers(model, tokenizer, _some(questions, settings.prompts, seed), settings.answer_tokens)
    cut = [[ids[: settings.window] for ids in group] for group in (refusals, template_openings(tokenizer), benign)]
    found: dict[int, MinedToken] = {}
    for group in cut[:2]:
        for token in mine_safety_tokens(group, cut[2], settings.least_share, settings.least_lift):
            found.setdefault(token.id, token)
    kept = [token for token in found.values() if token.id not in special_tokens(tokenizer)]
    counts = {"harmful_prompts": len(harmful), "refused": len(refusals), "benign_prompts": len(benign)}
    return kept[: settings.most], counts


def _some(prompts: Sequence[str], count: int, seed: int) -> list[str]:
    distinct = list(dict.fromkeys(prompts))
    draws = {prompt: float(keyed_uniforms(seed, "finetune-prompts", prompt, 1)[0]) for prompt in distinct}
    return sorted(distinct, key=lambda prompt: draws[prompt])[:count]


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 16
) -> list[list[int]]:
    """Token ids of the greedy answers, in order, without end tokens. They are the likeliest tokens of the model as it is: what
    its checkpoint asks of `generate` (a repetition penalty, suppressed tokens) does not count."""
    from finetune.model_passes import answer_batch, batches_by_length

    encoded = [
        prompt_ids(checked_messages([{"role": "user", "content": text}], "prompt"), tokenizer) for text in prompts
    ]
    ends, pad_id = _end_ids(model, tokenizer), tokenizer.pad_token_id
    answers: dict[int, list[int]] = {}
    for chosen in batches_by_length(encoded, batch_size):
        batch = [encoded[index] for index in chosen]
        made = answer_batch(model, batch, lambda logits, _: logits.argmax(-1), max_new_tokens, ends, pad_id)
        for index, row in zip(chosen, made, strict=True):
            answers[index] = row[:-1] if row[-1] in ends else row
    return [answers[index] for index in range(len(prompts))]


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    named = model.generation_config.eos_token_id
    return {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id} - {None}
