"""Rows that teach a model to refuse from the middle of a compliant answer: `python -m finetune.deep_alignment --help`.

Deep alignment (arXiv 2406.05946) puts the first k tokens of a harmful answer before a refusal and learns the refusal alone.
Here the beginning says that it complies and holds no content, so that no harmful text is needed. This is what the expert of
Neuron Guided Safe Decoding is trained on.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifiers.errors import DataError
from finetune.chat_data import read_json_lines
from finetune.files import write_text
from rephrasers.keyed_draws import keyed_uniforms

# Each compliant beginning is one sentence of every group, in this order; about 60 to 90 tokens.
_SENTENCES: tuple[tuple[str, ...], ...] = (
    (
        "Sure, here is what you asked for.", "Of course! I can walk you through this.", "Certainly. Here is a detailed guide.",
        "Yes, I can help you with that.", "Great question, let me lay it out for you.", "Here you go:",
        "No problem at all, this is easier than it sounds.", "Okay, let's get straight to it.",
    ),
    (
        "I will go through it step by step, from the first preparations to the end.", "It comes in five parts.",
        "You will need a few things before you start, and some patience.", "Below is the complete version, nothing left out.",
        "Most people get this wrong, so read every step before you begin.", "I have kept it short and practical.",
        "There are several ways to do it, and I will start with the one that works best.",
    ),
    (
        "\n\n1. First, prepare everything", "\n\nStep 1: Start by", "\n\n**Part one.** Begin with", "To begin with, you should",
        "\n\nThe first thing to do is to", "\n\n- Before anything else,",
    ),
    (
        "get all that is needed together in one place.", "make sure that nobody disturbs you.", "set aside enough time for it.",
        "find out how things stand.", "write down what you want to reach.", "check that everything is in order.",
    ),
    (
        "\n\n2. Then go on with the main part, which", "\n\nStep 2: Once that is done,", "After that,", "\n\n- Next,",
        "\n\nWhen you are ready, move on to the part that matters, where",
    ),
    (
        "everything follows from what you have prepared.", "take it slowly and do one thing after the other.",
        "you carry out what was planned in the order given here.", "the details decide whether it works.",
    ),
)  # fmt: skip
MAX_PREFIX_TOKENS = 100


def compliant_beginning(row_id: str, seed: int) -> str:
    """A compliant answer's beginning without content, drawn by (seed, row): stream "compliant-beginning"."""
    draws = keyed_uniforms(seed, "compliant-beginning", row_id, len(_SENTENCES))
    parts = [group[int(draw * len(group))] for group, draw in zip(_SENTENCES, draws, strict=True)]
    return "".join(part if part.startswith("\n") or not number else f" {part}" for number, part in enumerate(parts))


def deep_alignment_row(
    row: Mapping[str, Any], tokenizer: Any, seed: int, copy: int, share: float = 0.5
) -> dict[str, Any]:
    """One training row of a refusal dialogue: `messages`, and `not_learnt`, the text that its last answer begins with and
    that gets no label ("" for a plain row).

    With probability `share` the answer is the first k tokens of a compliant beginning (the row's own `prefix`, or one made
    here), k uniform in 1..min(100, its length), then a space and the refusal. Draws are keyed by (seed, id, copy), so that
    each copy of a dialogue is cut elsewhere. Raises DataError for a row that does not end with an answer.
    """
    messages = [dict(message) for message in row.get("messages") or []]
    if not messages or messages[-1].get("role") != "assistant" or not str(messages[-1].get("content", "")).strip():
        raise DataError(f"row {row.get('id')!r}: `messages` must end with the assistant's refusal")
    row_id = f"{row['id']}#{copy}"
    coin, length = keyed_uniforms(seed, "deep-alignment", row_id, 2)
    not_learnt = ""
    if coin < share:
        beginning = str(row.get("prefix") or compliant_beginning(row_id, seed))
        ids = tokenizer(beginning, add_special_tokens=False)["input_ids"]
        kept = 1 + int(length * min(MAX_PREFIX_TOKENS, len(ids)))
        not_learnt = str(tokenizer.decode(ids[:kept])).rstrip()
    refusal = str(messages[-1]["content"]).strip()
    messages[-1]["content"] = f"{not_learnt} {refusal}" if not_learnt else refusal
    return {"id": row_id, "category": row.get("category"), "messages": messages, "not_learnt": not_learnt}


def deep_alignment_rows(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, seed: int, copies: int = 4, share: float = 0.5
) -> Iterator[dict[str, Any]]:
    """`copies` training rows of every dialogue, each with draws of its own."""
    for copy in range(copies):
        for row in rows:
            yield deep_alignment_row(row, tokenizer, seed, copy, share)


def read_dialogues(path: Path) -> list[dict[str, Any]]:
    """The dialogues of a JSON-lines file. Raises DataError that names file and line."""
    rows = []
    for place, row in read_json_lines(path):
        if "id" not in row or "messages" not in row:
            raise DataError(f"{place}: a row is {{'id': ..., 'messages': [...]}}")
        rows.append(row)
    return rows


def main() -> None:
    """Writes the rows of a file of refusal dialogues."""
    from transformers import AutoTokenizer

    from rephrasers.embedded_writer import EMBEDDED_NAME
    from rephrasers.models import resolve_model

    parser = argparse.ArgumentParser(
        description="Deep-alignment rows of refusal dialogues, for `safetrove finetune sft`"
    )
    parser.add_argument("--refusals", type=Path, required=True, help="JSON lines: id, category, messages")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default=EMBEDDED_NAME, help="whose tokens are counted")
    parser.add_argument("--copies", type=int, default=4, help="rows of each dialogue, cut at different places")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reference = resolve_model(options.model)
    tokenizer = reference.load(AutoTokenizer)
    rows = list(deep_alignment_rows(read_dialogues(options.refusals), tokenizer, options.seed, options.copies))
    write_text(options.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows)} rows, {sum(bool(row['not_learnt']) for row in rows)} of them begin with a compliant start")


if __name__ == "__main__":
    main()
