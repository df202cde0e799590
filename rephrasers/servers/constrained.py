"""Request fields that hold a server to a form of answer, and that ask it for log-probabilities.

`rephrasers.ask.AskLLM` puts them into each request. What servers do with them: vLLM honours all; `transformers serve`
knows only the question, at an address of its own; other OpenAI-compatible servers mostly know the JSON schema and
log-probabilities.
"""

from collections.abc import Sequence
from typing import Any

# The largest number that vLLM and the OpenAI API accept.
TOP_LOGPROBS = 20
QUESTION_NAME = "level"


def logprob_fields() -> dict[str, Any]:
    """Log-probabilities of the likeliest candidates of each answer token."""
    return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}


def choice_fields(answers: Sequence[str]) -> dict[str, Any]:
    """Exactly one of `answers` (vLLM's `structured_outputs`), with log-probabilities."""
    return {"structured_outputs": {"choice": list(answers)}, **logprob_fields()}


def json_fields(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON object after `schema`; `name` is required by the format and means nothing."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}}


def score_question_fields(instructions: str, criteria: Sequence[str]) -> dict[str, Any]:
    """A question of type `score` for the decision endpoint of `transformers serve`; the last message is its document."""
    question = {"type": "score", "instructions": instructions, "criteria": list(criteria)}
    return {"questions": {QUESTION_NAME: question}}
