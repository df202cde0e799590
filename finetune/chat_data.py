"""Chats as JSON lines, checked; token ids with labels on the assistant's tokens alone.

A row is `{"messages": [{"role": ..., "content": ...}, ...]}`, with an optional `id` and `not_learnt`; other
keys are not read. The
prompt of each answer is encoded by itself, so its ids are those that the model reads when it generates.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from finetune.errors import FinetuneDataError, FinetuneModelError

IGNORED: Final = -100
ROLES: Final = ("system", "user", "assistant")
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Chat:
    """A chat that ends with an assistant turn. `id`: the row's, else a hash of its messages (never its position).

    not_learnt: what the last turn begins with and must not be learnt (`finetune.deep_alignment`); it gets no labels.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    place: str = field(default="", compare=False)
    not_learnt: str = ""


@dataclass(frozen=True)
class TokenisedChat:
    """`labels[t]` is `input_ids[t]` where token t is the assistant's (its end-of-turn token too), else -100."""

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Number of tokens with a label."""
        return sum(label != IGNORED for label in self.labels)


def read_json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of each line that is not blank. Raises FinetuneDataError that names file and line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FinetuneDataError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FinetuneDataError(f"{place}: not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise FinetuneDataError(f"{place}: expected a JSON object, found {type(row).__name__}")
        rows.append((place, row))
    if not rows:
        raise FinetuneDataError(f"{path} holds no rows")
    return rows


def read_chats(path: Path) -> list[Chat]:
    """All chats of a JSON-lines file, in order. Raises FinetuneDataError that names file and line (see `chat_of_row`)."""
    return [chat_of_row(row, place) for place, row in read_json_lines(path)]


def chat_of_row(row: Mapping[str, Any], place: str) -> Chat:
    """The checked chat of one row; `place` stands in front of every message.

    Raises FinetuneDataError where `messages` is missing, a message lacks role or content, a role is unknown, turns do not
    alternate, an assistant turn is empty, or the chat does not end with one.
    """
    if "messages" not in row:
        raise FinetuneDataError(f"{place}: no `messages`; a row is {{'messages': [{{'role': ..., 'content': ...}}]}}")
    messages = checked_messages(row["messages"], place)
    if messages[-1]["role"] != "assistant":
        raise FinetuneDataError(
            f"{place}: the last turn is the {messages[-1]['role']}'s: end with an assistant turn, which is what is learnt"
        )
    not_learnt = row.get("not_learnt") or ""
    if not isinstance(not_learnt, str) or not messages[-1]["content"].startswith(not_learnt):
        raise FinetuneDataError(f"{place}: `not_learnt` must be the text that the last turn begins with")
    return Chat(_row_id(row, messages, place), messages, place, not_learnt)


def checked_messages(messages: Any, place: str) -> tuple[dict[str, str], ...]:
    """The messages with role and content alone: an optional system message, then user and assistant in turn."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise FinetuneDataError(f"{place}: `messages` must be a list of at least one message")
    checked: list[dict[str, str]] = []
    for number, message in enumerate(messages, 1):
        where = f"{place}, message {number}"
        if not isinstance(message, Mapping) or "role" not in message:
            raise FinetuneDataError(f"{where}: no `role`; it is one of {', '.join(ROLES)}")
        role, content = message["role"], message.get("content")
        if role not in ROLES:
            raise FinetuneDataError(f"{where}: role {role!r}; it is one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise FinetuneDataError(f"{where}: no `content` that is a text")
        expected = _roles_that_fit(checked)
        if role not in expected:
            raise FinetuneDataError(f"{where}: a turn of role {role} stands where one of {' or '.join(expected)} comes")
        if role != "system" and not content.strip():
            raise FinetuneDataError(f"{where}: empty {role} turn; leave the row out, or give it a text")
        checked.append({"role": role, "content": content})
    return tuple(checked)


def _roles_that_fit(before: list[dict[str, str]]) -> tuple[str, ...]:
    if not before:
        return ("system", "user")
    return ("assistant",) if before[-1]["role"] == "user" else ("user",)


def _row_id(row: Mapping[str, Any], messages: tuple[dict[str, str], ...], place: str) -> str:
    given = row.get("id")
    if given is None:
        return hashlib.blake2b(json.dumps(messages, sort_keys=True).encode(), digest_size=16).hexdigest()
    if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
        raise FinetuneDataError(f"{place}: `id` must be a text or a whole number")
    return str(given)


def render_prompt(messages: Messages, tokenizer: Any) -> str:
    """The text that the model reads before it answers: the chat template with the assistant's header at its end.

    Raises FinetuneModelError for a tokenizer without a chat template.
    """
    _need_template(tokenizer)
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return text


def prompt_ids(messages: Messages, tokenizer: Any) -> list[int]:
    """Token ids of `render_prompt`; no special token is added to those of the template."""
    return _encode(render_prompt(messages, tokenizer), tokenizer)


def tokenise_chat(
    chat: Chat,
    tokenizer: Any,
    max_length: int,
    too_long: Literal["cut", "drop"] = "cut",
    allowed_special: frozenset[str] = frozenset(),
) -> TokenisedChat | None:
    """Token ids and labels of one chat. None: longer than `max_length` tokens, and such rows are to be dropped.

    `allowed_special`: special tokens that may stand in contents (the harmfulness tag).
    Raises FinetuneDataError where a content holds another special token (it would end the turn or open one) or the cut
    leaves no label; FinetuneModelError where the template has no place for the answer.
    """
    _need_template(tokenizer)
    _no_special_tokens(chat, tokenizer, allowed_special)
    ids: list[int] = []
    labels: list[int] = []
    done = ""
    for number, message in enumerate(chat.messages):
        if message["role"] != "assistant":
            continue
        before = render_prompt(chat.messages[:number], tokenizer)
        after: str = tokenizer.apply_chat_template(list(chat.messages[: number + 1]), tokenize=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise FinetuneModelError(
                f"{chat.place or chat.id}: the chat template rewrites earlier turns when later ones are added, so answers "
                "cannot be told from prompts; use a template that only appends"
            )
        begun = chat.not_learnt if number == len(chat.messages) - 1 else ""
        prompt = _encode(before[len(done) :], tokenizer)
        if begun:
            if not after[len(before) :].startswith(begun):
                raise FinetuneModelError(
                    f"{chat.place or chat.id}: the chat template changes how an answer begins, so `not_learnt` has no place"
                )
            prompt += _encode(begun, tokenizer)
        answer = _encode(after[len(before) + len(begun) :], tokenizer)
        ids += prompt + answer
        learnt = _through_end_of_turn(answer, tokenizer)
        labels += [IGNORED] * len(prompt) + answer[:learnt] + [IGNORED] * (len(answer) - learnt)
        done = after
    if len(ids) > max_length and too_long == "drop":
        return None
    tokenised = TokenisedChat(chat.id, ids[:max_length], labels[:max_length])
    if not tokenised.supervised:
        raise FinetuneDataError(
            f"{chat.place or chat.id}: all labels are ignored: of {len(ids)} tokens {max_length} are kept, and none is the "
            "assistant's; raise max_length, or set `too_long: drop`"
        )
    return tokenised


def tokenise_chats(
    chats: Iterable[Chat],
    tokenizer: Any,
    max_length: int,
    too_long: Literal["cut", "drop"] = "cut",
    allowed_special: frozenset[str] = frozenset(),
) -> list[TokenisedChat]:
    """`tokenise_chat` for each; dropped chats are left out. Raises FinetuneDataError where none is left."""
    every = [tokenise_chat(chat, tokenizer, max_length, too_long, allowed_special) for chat in chats]
    kept = [chat for chat in every if chat is not None]
    if not kept:
        raise FinetuneDataError(
            f"no chat is left of {len(every)}: none fits into max_length {max_length}"
            if every
            else "there are no chats"
        )
    return kept


def data_sha256(chats: Iterable[TokenisedChat]) -> str:
    """Hex sha256 of ids, token ids and labels of all rows, in order: what a model was trained on."""
    digest = hashlib.sha256()
    for chat in chats:
        digest.update(json.dumps([chat.id, chat.input_ids, chat.labels], separators=(",", ":")).encode())
    return digest.hexdigest()


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Id and spelling of all special tokens: the named ones (end, padding, ...) and those that templates use."""
    added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _need_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise FinetuneModelError(
            "the tokenizer has no chat template: take an instruct model's, or put a chat_template.jinja into its folder"
        )


def _encode(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _through_end_of_turn(answer: list[int], tokenizer: Any) -> int:
    """Tokens of an answer that are learnt: through its last special token; templates put white space behind it."""
    special = special_tokens(tokenizer)
    ends = [position for position, token in enumerate(answer, 1) if token in special]
    return ends[-1] if ends else len(answer)


def _no_special_tokens(chat: Chat, tokenizer: Any, allowed: frozenset[str]) -> None:
    wrong = [token for token in special_tokens(tokenizer).values() if token not in allowed]
    for number, message in enumerate(chat.messages, 1):
        if found := [token for token in wrong if token in message["content"]]:
            raise FinetuneDataError(
                f"{chat.place or chat.id}, message {number}: the content holds the special token {found[0]}, which would "
                "be read as the template's own; take it out"
            )
