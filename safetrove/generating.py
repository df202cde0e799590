"""What `safetrove generate` does: prompts in, answers by one of the decoders out."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from classifiers.errors import DataError, RecipeError
from evaluation.generation.local_model import LocalModel
from rephrasers.harmfulness_tag import HARMFULNESS_TAG

DecoderName = Literal["greedy", "beam", "safe-beam", "safe-sample", "ngsd"]
OnText = Callable[[str], None]


@dataclass(frozen=True)
class GenerateOptions:
    """What the command was asked for."""

    decoder: DecoderName
    max_new_tokens: int
    min_new_tokens: int
    num_beams: int
    candidates: int
    discard_fraction: float
    risk: Literal["raw", "boundary"]
    refill: bool
    length_penalty: float
    temperature: float
    top_p: float
    seed: int
    chat: bool | None  # None: as a chat where the model has a template
    system: str | None
    batch_rows: int


@dataclass(frozen=True)
class Prompt:
    """A text with the id that its answer is written under."""

    id: str
    text: str


@dataclass(frozen=True)
class Answer:
    """`risks`: of each token, where the decoder reads them. `ended`: "end", "length", or "tag" where ordinary decoding came to
    the harmfulness tag. `mode`: of the magic tokens, where they are used."""

    prompt: Prompt
    text: str
    prompt_ids: list[int] = field(repr=False)
    token_ids: list[int]
    ended: str
    risks: list[float] | None = None
    log_prob: float | None = None
    mode: str | None = None

    def to_json(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Plain values; absent ones are left out."""
        values = {
            "id": self.prompt.id, "text": self.text, "ended": self.ended, "tokens": list(tokens), "risk": self.risks,
            "log_prob": self.log_prob, "mode": self.mode,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value is not None}


def read_prompts(text: str | None, files: Sequence[Path], stdin: IO[str] | None) -> list[Prompt]:
    """The prompt given, else those of the files, else those of standard input: one a line; a line that is a JSON object has its
    `prompt`, and maybe an `id` (default: the number of the prompt). stdin: None where it is closed. Raises RecipeError, DataError."""
    if text is not None:
        if files:
            raise RecipeError("give --prompt or files, not both")
        if not text.strip():
            raise DataError("--prompt is empty: give it a text")
        return [_checked(Prompt("1", text), "--prompt")]
    prompts: list[Prompt] = []
    for name, lines in _sources(files, stdin):
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{name}, line {number}"
                prompts.append(_checked(_prompt(line.rstrip("\r\n"), where, len(prompts) + 1), where))
    if not prompts:
        raise DataError(
            "there is no prompt: give --prompt TEXT, or a line for each prompt in a file or on standard input"
        )
    return prompts


def generate_answers(
    model: LocalModel,
    prompts: Sequence[Prompt],
    options: GenerateOptions,
    switch: Any = None,
    on_text: OnText | None = None,
) -> Iterator[Answer]:
    """The answers, in order, batch by batch. switch: `decoding.modes.ModeSwitch`, whose system messages chats then have.
    on_text: gets the pieces of the text as soon as they are certain, for a single prompt.
    ngsd is `safetrove.ngsd_answers`. Raises ModelError (no tag, no chat template), DataError (a prompt that is empty or too long), RecipeError."""
    from decoding.prompt_checks import check_vocabulary

    check_vocabulary(model.model, model.tokenizer)
    for start in range(0, len(prompts), options.batch_rows):
        batch = prompts[start : start + options.batch_rows]
        encoded, modes = _encode(model, batch, options, switch)
        for prompt, ids, mode, found in zip(
            batch, encoded, modes, _decode(model, encoded, options, on_text), strict=True
        ):
            tokens, risks, log_prob = found
            yield Answer(
                prompt, model.tokenizer.decode(tokens, skip_special_tokens=True), ids, tokens,
                _ended(model, tokens), risks, log_prob, mode,
            )  # fmt: skip


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token."""
    return [tokenizer.decode([i]) for i in ids]


def picture(model: LocalModel, answer: Answer) -> bytes:
    """PNG of P(tag) along an answer; where the decoder read the boundary-corrected risk, of that. Raises ModelError without a
    tag."""
    from decoding.prompt_checks import find_tag_id
    from decoding.tag_trace import tag_trace
    from decoding.trace_plot import draw_tag_probability

    tag = find_tag_id(model.tokenizer, HARMFULNESS_TAG)
    risks = answer.risks or tag_trace(model.model, answer.prompt_ids, answer.token_ids, tag)
    return draw_tag_probability(
        token_texts(model.tokenizer, answer.token_ids),
        risks,
        f"{model.reference.description}: harmfulness tag after each token",
    )


def _sources(files: Sequence[Path], stdin: IO[str] | None) -> Iterator[tuple[str, Sequence[str]]]:
    """(name, lines) of each; a mark of byte order at the beginning is no part of the first line."""
    for path in files:
        try:
            yield str(path), path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as text: {error}") from error
    if not files and stdin is not None:
        try:
            lines = list(stdin)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"standard input cannot be read as text: {error}") from error
        yield "standard input", [line.removeprefix("\ufeff") for line in lines[:1]] + lines[1:]


def _checked(prompt: Prompt, where: str) -> Prompt:
    """The prompt. Raises DataError for bytes that were no UTF-8, or half a surrogate pair, which JSON can spell."""
    if any("\ud800" <= character <= "\udfff" for character in prompt.text):
        raise DataError(f"{where}: the prompt holds half a character or bytes that are no UTF-8, which are no text")
    return prompt


def _prompt(line: str, where: str, number: int) -> Prompt:
    if not line.lstrip().startswith("{"):
        return Prompt(str(number), line)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Prompt(str(number), line)
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DataError(f"{where}: a JSON object needs a `prompt` that is a text and not empty")
    return Prompt(str(number if row.get("id") is None else row["id"]), row["prompt"])


def _encode(
    model: LocalModel, batch: Sequence[Prompt], options: GenerateOptions, switch: Any
) -> tuple[list[list[int]], list[str | None]]:
    from decoding.prompt_encoding import chat_text, encode_chat, encode_completion

    tokenizer = model.tokenizer
    chat = bool(tokenizer.chat_template) if options.chat is None else options.chat
    if not chat:
        if switch is not None or options.system is not None:
            raise RecipeError("a system message or magic tokens need a chat: the prompts here are texts to continue")
        return [encode_completion(tokenizer, prompt.text) for prompt in batch], [None] * len(batch)
    chats = [[{"role": "user", "content": prompt.text}] for prompt in batch]
    modes: list[str | None] = [None] * len(batch)
    if switch is not None:
        chosen = switch.modes(chats)
        chats, modes = switch.chats(chats, chosen), list(chosen)
    elif options.system is not None:
        chats = [[{"role": "system", "content": options.system}, *messages] for messages in chats]
    return [encode_chat(tokenizer, chat_text(tokenizer, messages), HARMFULNESS_TAG) for messages in chats], modes


Decoded = tuple[list[int], list[float] | None, float | None]


def _decode(
    model: LocalModel, encoded: Sequence[Sequence[int]], options: GenerateOptions, on_text: OnText | None
) -> list[Decoded]:
    """(ids, risks, log p) of each prompt."""
    from classifiers.loading import fixed_threads
    from decoding.prompt_checks import check_context
    from decoding.prompt_encoding import left_padded

    ids, mask = left_padded(encoded, min(model.end_ids))
    check_context(model.model, ids.shape[1], options.max_new_tokens)
    stream = None if on_text is None or len(encoded) > 1 else TextStream(model.tokenizer, on_text)
    with fixed_threads(model.settings.threads):
        decode = _by_transformers if options.decoder in ("greedy", "beam") else _safely
        found = decode(model, ids, mask, options, stream)
    if stream is not None:
        stream.show(found[0][0])
    return found


def _by_transformers(
    model: LocalModel, ids: Any, mask: Any, options: GenerateOptions, stream: "TextStream | None"
) -> list[Decoded]:
    """Greedy and beam search as transformers has them; the harmfulness tag ends an answer."""
    from decoding.safe_options import check_length_penalty

    beams = options.num_beams if options.decoder == "beam" else 1
    if beams > 1:
        check_length_penalty(options.length_penalty, options.max_new_tokens)
    settings: dict[str, Any] = {"length_penalty": options.length_penalty, "early_stopping": False} if beams > 1 else {}
    with _without_own_settings(model.model):
        out = model.model.generate(
            ids.to(model.model.device), attention_mask=mask.to(model.model.device), do_sample=False, num_beams=beams,
            max_new_tokens=options.max_new_tokens, min_new_tokens=options.min_new_tokens, eos_token_id=sorted(model.end_ids),
            pad_token_id=min(model.end_ids), streamer=stream if beams == 1 else None, **settings,
        )  # fmt: skip
    return [(_until_end(row[ids.shape[1] :].tolist(), model.end_ids), None, None) for row in out]


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """What the checkpoint asks of `generate` (a repetition penalty, suppressed tokens) does not count, as in no other decoder."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _safely(
    model: LocalModel, ids: Any, mask: Any, options: GenerateOptions, stream: "TextStream | None"
) -> list[Decoded]:
    """Safe Beam Search, or sampling with its filter."""
    from decoding.prompt_checks import find_tag_id, word_start_ids
    from decoding.safe_beam import safe_beam_search
    from decoding.safe_sampling import safe_sample

    tag = find_tag_id(model.tokenizer, HARMFULNESS_TAG)
    shared: dict[str, Any] = {
        "attention_mask": mask, "discard_fraction": options.discard_fraction, "risk": options.risk,
        "word_start_ids": word_start_ids(model.tokenizer) if options.risk == "boundary" else None,
        "eos_token_ids": sorted(model.end_ids - {tag}), "min_new_tokens": options.min_new_tokens, "seed": options.seed,
        "temperature": options.temperature, "top_p": options.top_p,
        "on_agreed": None if stream is None else lambda row, agreed: stream.show(agreed),
    }  # fmt: skip
    if options.decoder == "safe-beam":
        found = safe_beam_search(
            model.model, ids, tag, options.num_beams, options.candidates, options.max_new_tokens, refill=options.refill,
            length_penalty=options.length_penalty, **shared,
        )  # fmt: skip
    else:
        found = safe_sample(model.model, ids, tag, options.candidates, options.max_new_tokens, **shared)
    decoded: list[Decoded] = []
    for row, length in enumerate(found.lengths.tolist()):
        tokens = found.sequences[row, ids.shape[1] : ids.shape[1] + length].tolist()
        risks = [float(f"{risk:.6g}") for risk in found.risks[row, :length].tolist()]
        decoded.append((tokens, risks, round(float(found.log_probs[row]), 6)))
    return decoded


class TextStream:
    """Shows an answer as it grows: what is certain of it, without half characters. Takes ids, or tokens as transformers'
    streamers do."""

    def __init__(self, tokenizer: Any, on_text: OnText) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
        self._ids: list[int] = []
        self._shown = 0
        self._prompt = True

    def put(self, value: Any) -> None:
        """The next token; the first call brings the prompt."""
        if not self._prompt:
            self.show([*self._ids, *value.flatten().tolist()])
        self._prompt = False

    def end(self) -> None:
        """transformers calls it behind the last token."""

    def show(self, ids: Sequence[int]) -> None:
        """The answer's ids so far."""
        self._ids = list(ids)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        certain = len(text.rstrip("\ufffd"))
        if certain > self._shown:
            self._on_text(text[self._shown : certain])
            self._shown = certain


def _until_end(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token in end_ids]
    return ids[: ends[0] + 1] if ends else ids


def _ended(model: LocalModel, ids: Sequence[int]) -> str:
    if not ids or ids[-1] not in model.end_ids:
        return "length"
    return "tag" if ids[-1] == model.tag_id else "end"
