"""NGSD from prompts to answers: vocabulary check, rating, batches, traces (arXiv 2602.02027)."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from decoding.ngsd.batch_decoding import BatchDecoding, Decoded
from decoding.ngsd.cached_model import CachedModel
from decoding.ngsd.chat import ChatModel, Prompt, check_requests, encode
from decoding.ngsd.risk import Rating, parse_rating, rating_request
from decoding.ngsd.settings import NgsdSettings
from decoding.ngsd.trace import NgsdAnswer, TokenTrace, Work
from decoding.ngsd.vocabulary import shared_vocabulary
from decoding.prompt_encoding import left_padded

# Ratings of requests, in order: a model behind a server, a classifier, or the base itself.
Rater = Callable[[Sequence[str]], Sequence[Rating]]


def generate(
    base: ChatModel,
    expert: ChatModel,
    prompts: Sequence[str | Prompt],
    settings: NgsdSettings | None = None,
    rate: Rater | None = None,
    on_token: Callable[[int, TokenTrace], None] | None = None,
) -> list[NgsdAnswer]:
    """One defended greedy answer a prompt, in order; a string is a user's request.

    Both models read the prompt in their own chat template and keep a key-value cache. rate: who rates the requests where
    `settings.strength` is None; None: the base. on_token: called with the prompt's index for every token as soon as it is
    settled, for streaming. Prompts whose expert can be deferred are decoded in batches of their own.
    Raises ModelError (vocabularies differ, no chat template, logits that are no numbers), DataError (a prompt that is empty
    or beyond a context), RecipeError (settings).
    """
    settings = settings or NgsdSettings()
    size = shared_vocabulary(base, expert)
    chats = [Prompt.ask(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    check_requests(chats)
    plain = {index for index, chat in enumerate(chats) if chat.plain}
    ids = {
        side: encode(model, [model.render(chat) for chat in chats], settings.max_new_tokens, plain=plain)
        for side, model in (("base", base), ("expert", expert))
    }
    ratings, strengths, rating_seconds = _strengths(base, chats, settings, rate)
    answers: list[NgsdAnswer | None] = [None] * len(chats)
    for batch, queue_length, max_undecided in _batches(list(map(len, ids["base"])), strengths, settings):

        def report(row: int, step: TokenTrace, batch: list[int] = batch) -> None:
            assert on_token is not None  # given only then
            on_token(batch[row], step)

        decoded, work = BatchDecoding(
            base, expert, size, [ids["base"][i] for i in batch], [ids["expert"][i] for i in batch],
            [strengths[i] for i in batch], settings, queue_length, max_undecided,
            None if on_token is None else report,
        ).run()  # fmt: skip
        for index, row in zip(batch, decoded, strict=True):
            answers[index] = _answer(
                base, row, strengths[index], ratings[index], chats[index], settings, rating_seconds, work
            )
    return [answer for answer in answers if answer is not None]


def rate_with_model(
    model: ChatModel, requests: Sequence[str], new_tokens: int = 64, max_rows: int = 32
) -> list[Rating]:
    """Ratings by a chat model's own greedy answers to the rating prompt. Raises as `generate` does."""
    texts = [model.render(Prompt.ask(rating_request(request))) for request in requests]
    remedy = "give a strength, or another rater (`rate`)"
    encoded = encode(model, texts, new_tokens, "the rating of prompt", remedy)
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))
    ratings: dict[int, Rating] = {}
    for start in range(0, len(order), max_rows):
        batch = order[start : start + max_rows]
        for index, ids in zip(batch, _greedy(model, [encoded[i] for i in batch], new_tokens), strict=True):
            ratings[index] = parse_rating(model.tokenizer.decode(ids, skip_special_tokens=True))
    return [ratings[index] for index in range(len(requests))]


def _strengths(
    base: ChatModel, chats: Sequence[Prompt], settings: NgsdSettings, rate: Rater | None
) -> tuple[list[Rating | None], list[float], float]:
    """(ratings, strengths, seconds of rating a prompt)."""
    if settings.strength is not None or not chats:
        return [None] * len(chats), [settings.strength or 0.0] * len(chats), 0.0
    requests = [chat.request() for chat in chats]
    started = time.perf_counter()
    ratings = list(
        rate_with_model(base, requests, settings.rating_tokens, settings.max_rows) if rate is None else rate(requests)
    )
    seconds = (time.perf_counter() - started) / len(chats)
    risks = [settings.risk.risk(r, len(request)) for r, request in zip(ratings, requests, strict=True)]
    return list(ratings), [settings.risk.strength(risk) for risk in risks], seconds


def _batches(
    lengths: Sequence[int], strengths: Sequence[float], settings: NgsdSettings
) -> Iterator[tuple[list[int], int, int]]:
    """(prompts, queue length, undecided tokens allowed) of each batch: longest prompts first."""
    deferral = settings.deferral
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    deferred = [i for i in order if deferral is not None and strengths[i] < 0.5]
    at_once = [i for i in order if deferral is None or strengths[i] >= 0.5]
    for start in range(0, len(deferred), settings.max_rows):
        assert deferral is not None  # else nothing is deferred
        yield deferred[start : start + settings.max_rows], deferral.max_queue, deferral.max_undecided
    for start in range(0, len(at_once), settings.max_rows):
        yield at_once[start : start + settings.max_rows], 1, 0


def _answer(
    base: ChatModel,
    row: Decoded,
    strength: float,
    rating: Rating | None,
    chat: Prompt,
    settings: NgsdSettings,
    rating_seconds: float,
    work: Work,
) -> NgsdAnswer:
    tokens = [step.token for step in row.trace]
    assert row.ended_by is not None  # the batch is done
    shown = tokens[:-1] if row.ended_by in ("end", "tag") else tokens
    return NgsdAnswer(
        text=base.tokenizer.decode(shown, skip_special_tokens=True),
        tokens=tokens,
        strength=strength,
        threshold=settings.gate.threshold,
        ended_by=row.ended_by,
        rating=rating,
        risk=None if rating is None else settings.risk.risk(rating, len(chat.request())),
        rating_seconds=rating_seconds,
        work=work,
        trace=row.trace,
        stop_reason=row.stop_reason,
    )


def _greedy(model: ChatModel, encoded: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """The greedy answers of one model, without the end token."""
    import torch

    ends = model.end_ids()
    mask: Any  # None: all of the input counts
    ids, mask = left_padded(encoded, min(ends))
    side = CachedModel(model.model, len(model.tokenizer))
    out: list[list[int]] = [[] for _ in encoded]
    open_rows = set(range(len(encoded)))
    with torch.inference_mode():
        for _ in range(new_tokens):
            chosen = side.feed(ids, mask)[:, 0].argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                if row in open_rows and token in ends:
                    open_rows.discard(row)
                elif row in open_rows:
                    out[row].append(token)
            if not open_rows:
                break
            ids, mask = chosen[:, None], None
    return out
