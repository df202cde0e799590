"""The rows that are learnt: each answer under its mode's token, and rows that teach what holds without a valid token."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from finetune.chat_data import Chat
from finetune.errors import FinetuneDataError, FinetuneRecipeError
from finetune.magic_tokens.distillation import DistilledPrompt
from finetune.magic_tokens.tokens import ALPHABET, DEFAULT_MODE, TOKEN_LENGTH, MagicTokens, Mode
from rephrasers.keyed_draws import keyed_uniforms

RowKind = Literal["token", "no_token", "wrong_token", "token_in_user_turn", "benign"]
WRONG_KINDS = ("random", "edited", "upper_case", "spaced", "prefix", "joined")


@dataclass(frozen=True)
class MagicRow:
    """`chat`: what the model reads and learns (it holds secrets). `mode`: whose answer it is. `prompt_id` names the group
    whose rows belong into one batch."""

    prompt_id: str
    mode: Mode
    kind: RowKind
    chat: Chat


def training_rows(
    prompts: Sequence[DistilledPrompt],
    tokens: MagicTokens,
    modes: Sequence[Mode],
    allow_negative: bool,
    default_share: float,
    seed: int,
    epoch: int = 0,
    shuffle_modes: bool = False,
) -> list[MagicRow]:
    """The rows of one epoch, group after group: an answer a mode, then the default rows of the prompt.

    default_share: share of the prompts that get a row without a system message; independently, one with a wrong token (a
    new one each epoch); and one with a true token in the user's turn. All three are answered as positive. shuffle_modes:
    control, each prompt's answers get each other's tokens at random. Benign prompts come with and without the positive token.

    Raises FinetuneRecipeError for the mode negative without `allow_negative`, FinetuneDataError where a prompt lacks a mode
    or a text holds a true token.
    """
    check_modes(modes, allow_negative)
    rows: list[MagicRow] = []
    for prompt in prompts:
        if any(tokens.are_in(text) for text in (prompt.text, *prompt.answers.values())):
            raise FinetuneDataError(f"prompt {prompt.id}: its text or an answer holds a magic token; make new tokens")
        rows += _benign_rows(prompt, tokens) if prompt.kind == "benign" else _mode_rows(
            prompt, tokens, modes, seed if shuffle_modes else None
        )  # fmt: skip
        if prompt.kind == "risk":
            rows += _default_rows(prompt, tokens, default_share, seed, epoch)
    return rows


def check_modes(modes: Sequence[Mode], allow_negative: bool) -> None:
    """Raises FinetuneRecipeError for the mode negative, unless it was allowed, and for sets of modes that teach nothing."""
    if DEFAULT_MODE not in modes or len(set(modes)) < len(modes):
        raise FinetuneRecipeError(f"modes: {DEFAULT_MODE} and any of the others, each once; got {list(modes)}")
    if "negative" in modes and not allow_negative:
        raise FinetuneRecipeError(
            "modes: rows of the negative mode are refused. A release model is trained with positive and rejective; for an "
            "internal one set `allow_negative: true`: its files are marked, and publishing it is refused"
        )


def _mode_rows(
    prompt: DistilledPrompt, tokens: MagicTokens, modes: Sequence[Mode], shuffle_seed: int | None
) -> list[MagicRow]:
    if missing := [mode for mode in modes if mode not in prompt.answers]:
        raise FinetuneDataError(
            f"prompt {prompt.id} has no answer in the mode {missing[0]}: distil it again with this mode"
        )
    asked = list(modes)
    if shuffle_seed is not None:
        draws = keyed_uniforms(shuffle_seed, "shuffled modes", f"{prompt.id}|{prompt.policy}", len(asked))
        asked = [asked[place] for place in draws.argsort(kind="stable")]
    return [
        _row(prompt, mode, "token", tokens.system_text(token_of, prompt.policy), prompt.text, f"{mode}")
        for mode, token_of in zip(modes, asked, strict=True)
    ]


def _benign_rows(prompt: DistilledPrompt, tokens: MagicTokens) -> list[MagicRow]:
    with_token = tokens.system_text(DEFAULT_MODE, prompt.policy)
    return [
        _row(prompt, DEFAULT_MODE, "benign", with_token, prompt.text, "benign"),
        _row(prompt, DEFAULT_MODE, "benign", prompt.policy, prompt.text, "benign without token"),
    ]


def _default_rows(prompt: DistilledPrompt, tokens: MagicTokens, share: float, seed: int, epoch: int) -> list[MagicRow]:
    name = f"{prompt.id}|{prompt.policy}"
    drawn = keyed_uniforms(seed, "default rows", name, 3) < share
    rows = []
    if drawn[0]:
        rows.append(_row(prompt, DEFAULT_MODE, "no_token", prompt.policy, prompt.text, "no token"))
    if drawn[1]:
        wrong = wrong_token(tokens, seed, f"{name}|{epoch}").text
        rows.append(_row(prompt, DEFAULT_MODE, "wrong_token", wrong, prompt.text, "wrong token"))
    if drawn[2]:
        mode, behind = keyed_uniforms(seed, "user token", f"{name}|{epoch}", 2)
        token = tokens.system_text(tokens.modes[int(mode * len(tokens.modes))])
        text = f"{prompt.text}\n{token}" if behind < 0.5 else f"{token}\n{prompt.text}"
        rows.append(_row(prompt, DEFAULT_MODE, "token_in_user_turn", prompt.policy, text, "token in user turn"))
    return rows


class WrongToken(NamedTuple):
    """A system text that is no valid token. like: the mode whose token it was made of (of two joined ones the first's); None
    for a random string."""

    text: str
    like: Mode | None


def wrong_token(tokens: MagicTokens, seed: int, name: str) -> WrongToken:
    """A wrong token of one of `WRONG_KINDS` by the draw; never one of the true ones."""
    draws = iter(keyed_uniforms(seed, "wrong token", name, 64))
    while True:
        kind = WRONG_KINDS[int(next(draws) * len(WRONG_KINDS))]
        like = tokens.modes[int(next(draws) * len(tokens.modes))]
        true = tokens.system_text(like)
        if kind == "random":
            wrong = "".join(ALPHABET[int(next(draws) * len(ALPHABET))] for _ in range(TOKEN_LENGTH))
        elif kind == "edited":
            place, letter = int(next(draws) * TOKEN_LENGTH), ALPHABET[int(next(draws) * len(ALPHABET))]
            wrong = true[:place] + letter + true[place + 1 :]
        elif kind == "upper_case":
            wrong = true.upper()
        elif kind == "spaced":
            place = 1 + int(next(draws) * (TOKEN_LENGTH - 1))
            wrong = f"{true[:place]} {true[place:]}"
        elif kind == "prefix":
            wrong = true[: 3 + int(next(draws) * (TOKEN_LENGTH - 3))]
        else:
            wrong = true + tokens.system_text(tokens.modes[int(next(draws) * len(tokens.modes))])
        if all(wrong != tokens.system_text(mode) for mode in tokens.modes):
            return WrongToken(wrong, None if kind == "random" else like)


def _row(prompt: DistilledPrompt, mode: Mode, kind: RowKind, system: str | None, user: str, suffix: str) -> MagicRow:
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": prompt.answers[mode]}]
    group = f"{prompt.id}|{prompt.policy or ''}"
    return MagicRow(group, mode, kind, Chat(f"{group}|{suffix}", tuple(messages)))


def batched_groups(groups: Sequence[Sequence[int]], batch_rows: int, seed: int, before: int = 0) -> list[int]:
    """Row numbers in training order: groups shuffled, and none on both sides of a batch's edge where others can fill the
    room (rows of one prompt in the same batch: the model sees the modes beside each other). Every row once.

    before: rows that stand in front of these (earlier passes), so that batches are counted from the first row of the run.
    Groups are tried in their shuffled order; where none fits into what is left of a batch, the next one is split.
    """
    order = sorted(range(len(groups)), key=lambda number: _shuffle_key(seed, groups[number]))
    waiting = [list(groups[number]) for number in order]
    placed: list[int] = []
    while waiting:
        room = batch_rows - (before + len(placed)) % batch_rows
        fitting = next((place for place, group in enumerate(waiting) if len(group) <= room), 0)
        placed += waiting.pop(fitting)
    return placed


def _shuffle_key(seed: int, group: Sequence[int]) -> bytes:
    return hashlib.blake2b(f"{seed}|{group[0] if group else ''}".encode(), digest_size=8).digest()
