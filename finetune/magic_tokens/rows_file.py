"""The file of distilled answers: one prompt a line, with its answers by mode. Magic tokens are never in it."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.chat_data import read_json_lines
from finetune.errors import FinetuneDataError
from finetune.files import sync_and_rename, temporary_name, write_json
from finetune.magic_tokens.distillation import DistilledPrompt
from finetune.magic_tokens.tokens import MODES

_OWNER_ONLY = 0o600


def facts_file(rows: Path) -> Path:
    """Where the lineage of a file of rows stands, beside it."""
    return rows.with_suffix(".facts.json")


def write_rows(path: Path, prompts: Sequence[DistilledPrompt], facts: dict[str, Any]) -> None:
    """Writes the lineage, then the rows beside it, which are never without it. With negative answers they are their owner's
    alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {"id": one.id, "prompt": one.text, "kind": one.kind, "policy": one.policy, "answers": dict(one.answers)},
            ensure_ascii=False,
        )
        for one in prompts
    ]
    temporary = temporary_name(path)
    private = any("negative" in one.answers for one in prompts)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY if private else 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    write_json(facts_file(path), {**facts, "rows_sha256": hashlib.sha256(temporary.read_bytes()).hexdigest()})
    sync_and_rename(temporary, path)


def read_rows(path: Path) -> list[DistilledPrompt]:
    """The prompts of a file of rows. Raises FinetuneDataError that names the line."""
    if not path.is_file():
        raise FinetuneDataError(f"{path}: no such file of rows; make it with `safetrove finetune magic distil RECIPE`")
    prompts = [_prompt(row, place) for place, row in read_json_lines(path)]
    seen = {(prompt.id, prompt.policy) for prompt in prompts}
    if len(seen) < len(prompts):
        raise FinetuneDataError(f"{path}: a prompt is there twice with the same id and policy")
    return prompts


def _prompt(row: dict[str, Any], place: str) -> DistilledPrompt:
    answers = row.get("answers")
    if not isinstance(answers, dict) or not answers or not set(answers) <= set(MODES):
        raise FinetuneDataError(f"{place}: `answers` must map modes ({', '.join(MODES)}) to texts")
    if empty := [mode for mode, text in answers.items() if not isinstance(text, str) or not text.strip()]:
        raise FinetuneDataError(f"{place}: the answer in the mode {empty[0]} is empty")
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip() or not row.get("id"):
        raise FinetuneDataError(f"{place}: `id` and `prompt` must be texts")
    if row.get("kind") not in ("risk", "benign") or "positive" not in answers:
        raise FinetuneDataError(f"{place}: `kind` is risk or benign, and `answers` has the mode positive at least")
    return DistilledPrompt(str(row["id"]), row["prompt"], row["kind"], row.get("policy"), answers)
