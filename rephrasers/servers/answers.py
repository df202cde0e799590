"""What a server answered, as the chat completion that datatrove reads, with what datatrove would drop.

datatrove keeps an answer's text, finish reason and `usage`; so the log-probabilities and the number of retries travel in
`usage`, and `take_extras` takes them out again.
"""

import math
from typing import Any

from rephrasers.servers.constrained import QUESTION_NAME

TokenLogprobs = list[list[tuple[str, float]]]

# Answers whose log-probabilities are asked for are one token long; white space may stand before it.
_TOKENS_KEPT = 4
# Servers write minus infinity as a number like -9999.
_LEAST_LOGPROB = -1000.0


def chat_completion(body: dict[str, Any], retries: int) -> dict[str, Any]:
    """The answer of /v1/chat/completions, checked for what is read from it. Raises KeyError, IndexError, TypeError or
    ValueError where it is none."""
    choice = body["choices"][0]
    message = choice["message"]
    # A model that declines in a field of its own says nothing in the other one.
    message["content"] = message["content"] or message.get("refusal") or ""
    _ = choice["finish_reason"]
    extras: dict[str, Any] = {"retries": retries}
    if (choice.get("logprobs") or {}).get("content"):
        extras["token_logprobs"] = _candidates(choice["logprobs"]["content"])
    return {**body, "usage": {**(body.get("usage") or {}), **extras}}


def decision_completion(body: dict[str, Any], retries: int) -> dict[str, Any]:
    """The answer of /v1/systemone as if a chat model had written the likeliest digit. Raises like `chat_completion`."""
    probabilities = {level: float(p) for level, p in body["answers"][QUESTION_NAME]["probabilities"].items()}
    candidates = [(level, math.log(p)) for level, p in probabilities.items() if p > 0]
    text = max(probabilities, key=lambda level: (probabilities[level], level))
    usage = {"prompt_tokens": body["usage"]["input_tokens"], "completion_tokens": body["usage"]["output_tokens"]}
    return {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {**usage, "retries": retries, "token_logprobs": [candidates]},
    }


def take_extras(usage: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(`usage` as the server gave it, {"retries": ..., and "token_logprobs" where there are any})."""
    own = {key: value for key, value in usage.items() if key not in ("retries", "token_logprobs")}
    extras: dict[str, Any] = {"retries": usage.get("retries", 0)}
    if "token_logprobs" in usage:
        extras["token_logprobs"] = usage["token_logprobs"]
    return own, extras


def _candidates(tokens: list[dict[str, Any]]) -> TokenLogprobs:
    return [
        [(c["token"], float(c["logprob"])) for c in token["top_logprobs"] if c["logprob"] > _LEAST_LOGPROB]
        for token in tokens[:_TOKENS_KEPT]
    ]
