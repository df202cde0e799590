"""What a server answered, as the chat completion that datatrove reads, with what datatrove would drop.

datatrove keeps an answer's text, finish reason and `usage`; so the log-probabilities and what went wrong before the answer
came travel in `usage`, and `take_extras` takes them out again.
"""

import math
from collections.abc import Mapping
from typing import Any

import orjson

from rephrasers.servers.constrained import QUESTION_NAME

TokenLogprobs = list[list[tuple[str, float]]]

# Answers whose log-probabilities are asked for are one token long; white space may stand before it.
_TOKENS_KEPT = 4
# Servers write minus infinity as a number like -9999.
_LEAST_LOGPROB = -1000.0
# Bytes of an answer beside its tokens; of a token's text, escaped (tokens of 128 spaces exist); of its log-probabilities.
_FRAME_BYTES, _TOKEN_BYTES, _LOGPROB_BYTES = 64 << 10, 256, 4096


class MalformedAnswerError(Exception):
    """A body with status 200 that is no answer. kind: invalid_json, no_choices, no_content, not_a_completion, oversized."""

    def __init__(self, kind: str, what: str):
        super().__init__(what)
        self.kind = kind


def most_bytes(payload: Mapping[str, Any]) -> int:
    """Bytes that the answer to a request may have; one that is longer has not kept to `max_tokens`, and is not read."""
    each = _TOKEN_BYTES + (_LOGPROB_BYTES if payload.get("logprobs") else 0)
    return _FRAME_BYTES + int(payload.get("max_tokens", 1)) * each


def read_completion(content: bytes, decision: bool) -> dict[str, Any]:
    """The completion in a body; decision: of the decision endpoint. Raises MalformedAnswerError, with no text of it."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise MalformedAnswerError("invalid_json", f"{len(content)} bytes that are not JSON") from None
    try:
        return decision_completion(body) if decision else chat_completion(body)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        what = "decision" if decision else "chat completion"
        raise MalformedAnswerError("not_a_completion", f"not a {what} ({type(error).__name__})") from None


def chat_completion(body: dict[str, Any]) -> dict[str, Any]:
    """The answer of /v1/chat/completions, checked for what is read from it.

    Raises MalformedAnswerError where it has no choice or no text, and KeyError, IndexError, TypeError, ValueError or
    AttributeError where it is none.
    """
    if body["choices"] == [] or body["choices"] is None:
        raise MalformedAnswerError("no_choices", "it has no choices")
    choice = body["choices"][0]
    message = choice["message"]
    # A model that declines in a field of its own says nothing in the other one.
    text = message["content"] or message.get("refusal")
    if text is None and message["content"] is None:
        raise MalformedAnswerError("no_content", "its content is null")
    if not isinstance(text or "", str):
        raise TypeError("content is no text")
    message["content"] = text or ""
    usage = {**(body.get("usage") or {})}
    for count in ("prompt_tokens", "completion_tokens"):  # datatrove adds them up, and loses the answer where it cannot
        if type(usage.get(count)) is not int:
            usage.pop(count, None)
    if (choice.get("logprobs") or {}).get("content"):
        usage["token_logprobs"] = _candidates(choice["logprobs"]["content"])
    return {"choices": [{"message": message, "finish_reason": choice["finish_reason"]}], "usage": usage}


def decision_completion(body: dict[str, Any]) -> dict[str, Any]:
    """The answer of /v1/systemone as if a chat model had written the likeliest digit. Raises like `chat_completion`."""
    probabilities = {level: float(p) for level, p in body["answers"][QUESTION_NAME]["probabilities"].items()}
    candidates = [(level, math.log(p)) for level, p in probabilities.items() if p > 0]
    text = max(probabilities, key=lambda level: (probabilities[level], level))
    usage = {"prompt_tokens": body["usage"]["input_tokens"], "completion_tokens": body["usage"]["output_tokens"]}
    return {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {**usage, "token_logprobs": [candidates]},
    }


def with_faults(completion: dict[str, Any], faults: Mapping[str, int]) -> dict[str, Any]:
    """The completion with the tries that went wrong before it, by kind."""
    return {**completion, "usage": {**completion["usage"], "faults": dict(faults)}}


def take_extras(usage: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(`usage` as the server gave it, {"retries": ..., and "faults" and "token_logprobs" where there are any})."""
    own = {key: value for key, value in usage.items() if key not in ("faults", "token_logprobs")}
    extras = extras_of_faults(usage.get("faults") or {})
    if "token_logprobs" in usage:
        extras["token_logprobs"] = usage["token_logprobs"]
    return own, extras


def extras_of_faults(faults: Mapping[str, int]) -> dict[str, Any]:
    """How often a request was sent again, and why."""
    return {"retries": sum(faults.values()), **({"faults": dict(faults)} if faults else {})}


def _candidates(tokens: list[dict[str, Any]]) -> TokenLogprobs:
    return [
        [(c["token"], float(c["logprob"])) for c in token["top_logprobs"] if c["logprob"] > _LEAST_LOGPROB]
        for token in tokens[:_TOKENS_KEPT]
    ]
