"""Which prompts the models are asked: a fixed draw of the suites, and our own held-out ones; none of them is trained on.

OUTPUT/prompts/NAME.jsonl, NAME.yaml    a suite for evaluation/ each: harmful, requests, harmless
OUTPUT/prompts/suites.jsonl             every prompt of the suites, for the check
OUTPUT/prompts/arithmetic.jsonl         held-out problems, for the benign loss
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.finetune_comparison.settings import OWN_TEXTS, Settings
from evaluation.suites.loading import SuitePrompt, load_suite
from finetune.arithmetic_problems import arithmetic_problems
from finetune.chat_data import Chat, read_json_lines
from finetune.files import write_text
from finetune.prompt_sets import Prompt, read_prompts, refuse_overlap
from rephrasers.keyed_draws import keyed_uniforms

HARMFUL, REQUESTS, HARMLESS = "harmful", "requests", "harmless"
# Of the draw, and of the held-out problems: no training seed has these numbers.
DRAW_SEED: Final = 20_260
PROBLEM_SEED: Final = 977_001
HELD_OUT_PROBLEMS: Final = 60


def write_prompts(settings: Settings) -> Path:
    """Writes the files above; their folder. Raises DataError for missing suites, FinetuneDataError where a prompt of an
    evaluation stands in one of our training texts."""
    folder = settings.output / "prompts"
    suites: dict[str, list[SuitePrompt]] = {}
    # Suites share prompts: the first one keeps them.
    seen: set[str] = set()
    for name in settings.suite_names:
        prompts = _harmful(load_suite(name, settings.suites).prompts)
        suites[name] = list({prompt.text: prompt for prompt in prompts if prompt.text not in seen}.values())
        seen |= {prompt.text for prompt in prompts}
    every = [(name, prompt) for name, prompts in suites.items() for prompt in prompts]
    write_lines(folder / "suites.jsonl", [{"prompt": p.text, "group": name} for name, p in every])
    part = max(1, settings.prompts // len(suites))
    drawn = [(name, prompt) for name, prompts in suites.items() for prompt in _drawn(prompts, part)]
    _write_suite(folder, HARMFUL, "harmful", [{"prompt": p.text, "group": name} for name, p in drawn])
    _write_suite(folder, REQUESTS, "harmful", _own("held_out_requests", settings.prompts))
    _write_suite(folder, HARMLESS, "benign", _own("held_out_harmless", settings.harmless))
    check_training_texts(folder)
    return folder


def check_training_texts(folder: Path) -> None:
    """Raises FinetuneDataError where a text that is trained on, or that a direction is found with, overlaps a prompt that is
    asked, or any prompt of the suites."""
    sets = [
        (name, [Prompt(row["id"], row["messages"][0]["content"]) for row in drawn_rows(OWN_TEXTS / f"{name}.jsonl")])
        for name in ("refusal_dialogues", "harmless_dialogues")
    ]
    sets += [(name, read_prompts(OWN_TEXTS / f"{name}.jsonl")) for name in ("direction_requests", "direction_harmless")]
    refuse_overlap(sets, evaluation_files(folder))


def evaluation_files(folder: Path) -> list[Path]:
    """All prompts that no training set may hold."""
    return [folder / f"{name}.jsonl" for name in ("suites", HARMFUL, REQUESTS, HARMLESS)]


def write_problems(folder: Path, rows: int, seeds: Sequence[int]) -> Path:
    """Held-out arithmetic problems whose question is in no run's training rows; their file."""
    trained = {_question(chat) for seed in seeds for chat in arithmetic_problems(rows, seed)}
    problems = arithmetic_problems(2 * HELD_OUT_PROBLEMS, PROBLEM_SEED)
    kept = [chat for chat in problems if _question(chat) not in trained][:HELD_OUT_PROBLEMS]
    path = folder / "arithmetic.jsonl"
    write_lines(path, ({"id": chat.id, "messages": list(chat.messages)} for chat in kept))
    return path


def files_sha256(paths: Iterable[Path]) -> str:
    """Hex sha256 over the contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _question(chat: Chat) -> str:
    return chat.messages[0]["content"]


def _harmful(prompts: Sequence[SuitePrompt]) -> list[SuitePrompt]:
    return [prompt for prompt in prompts if prompt.kind == "harmful"]


def _drawn(prompts: Sequence[SuitePrompt], count: int) -> list[SuitePrompt]:
    """The `count` prompts with the smallest draws of their ids."""
    draws = {prompt.id: float(keyed_uniforms(DRAW_SEED, "comparison", prompt.id, 1)[0]) for prompt in prompts}
    return sorted(prompts, key=lambda prompt: draws[prompt.id])[:count]


def drawn_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of ours in the order of the draws of their ids."""
    rows = [row for _, row in read_json_lines(path)]
    return sorted(rows, key=lambda row: float(keyed_uniforms(DRAW_SEED, "comparison", row["id"], 1)[0]))


def _own(name: str, count: int) -> list[dict[str, Any]]:
    rows = drawn_rows(OWN_TEXTS / f"{name}.jsonl")[:count]
    return [{"prompt": row["messages"][0]["content"], "group": name} for row in rows]


def _write_suite(folder: Path, name: str, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    write_lines(folder / f"{name}.jsonl", rows)
    description = {
        "name": name, "title": name, "kind": kind, "source": "drawn for this comparison", "licence": "of the suites",
        "file": {"name": f"{name}.jsonl", "columns": {"prompt": "prompt", "category": "group"}},
    }  # fmt: skip
    write_text(folder / f"{name}.yaml", yaml.safe_dump(description))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
