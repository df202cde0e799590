"""Multi-directional self-distillation (arXiv 2508.14904): the base model answers each prompt in every behaviour, through an
LLM server; an answer is kept if a grader finds the behaviour in it, and a prompt only if every behaviour has one."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from datatrove.data import Document

from finetune.errors import FinetuneDataError
from finetune.magic_tokens.behaviours import Grade, accepts, behaviours
from finetune.magic_tokens.tokens import Mode
from rephrasers.servers import ServerSettings

PromptKind = Literal["risk", "benign"]


@dataclass(frozen=True)
class PoolPrompt:
    """A prompt to be answered. Benign ones are answered without a system message, and learnt as positive."""

    id: str
    text: str
    kind: PromptKind


@dataclass(frozen=True)
class DistilledPrompt:
    """A prompt with one accepted answer for each mode. `policy`: the tag of the norm under which it was answered."""

    id: str
    text: str
    kind: PromptKind
    policy: str | None
    answers: Mapping[Mode, str]


class Grader(Protocol):
    """Who grades answers: 0 risk, 1 refusal, 2 safe and constructive, None for no readable judgement."""

    def identity(self) -> dict[str, Any]:
        """What its grades depend on."""
        ...

    def grade(self, exchanges: Sequence[tuple[str, str, str]], work_folder: Path) -> list[Grade | None]:
        """A grade for each (id, prompt, answer), in order. What was asked so far is durable under `work_folder`."""
        ...


@dataclass(frozen=True)
class Distillation:
    """Complete prompts in the order of the pool, and what became of the others: `counts` says how many asked answers were
    lost, cut, or not accepted in which mode, and how many prompts stayed incomplete."""

    prompts: list[DistilledPrompt]
    counts: dict[str, int]


def distil(
    prompts: Sequence[PoolPrompt],
    modes: Sequence[Mode],
    policies: Mapping[str, str],
    candidates: int,
    server: ServerSettings,
    request_fields: Mapping[str, Any],
    grader: Grader,
    seed: int,
    work_folder: Path,
    on_answer: Callable[[int], None] | None = None,
) -> Distillation:
    """Asks, grades, and keeps the complete prompts; the first accepted of the candidates stands.

    policies: tag to a norm, which is put behind the behaviour's system message; none: one pass without a policy.
    Answers are durable under `work_folder`, which the caller deletes: after a kill the same call asks only what is missing.
    Raises as `rephrasers.ask.AskLLM` does, FinetuneDataError where no prompt is complete.
    """
    slots = list(_slots(prompts, modes, policies, candidates))
    answers = _ask(slots, policies, server, request_fields, seed, work_folder / "answers", on_answer)
    counts = Counter(lost=len(slots) - len(answers))
    risky = [slot for slot in slots if slot.id in answers and slot.prompt.kind == "risk"]
    asked = [(slot.id, slot.prompt.text, answers[slot.id]) for slot in risky]
    grades = dict(zip((slot.id for slot in risky), grader.grade(asked, work_folder / "grades"), strict=True))
    accepted: dict[tuple[str, str | None], dict[Mode, str]] = {}
    for slot in slots:
        if slot.id not in answers:
            continue
        answer = answers[slot.id]
        fits = accepts(slot.mode, answer, grades[slot.id]) if slot.id in grades else bool(answer.strip())
        counts[f"{slot.prompt.kind}_{slot.mode}_{'accepted' if fits else 'not_accepted'}"] += 1
        if fits:
            accepted.setdefault((slot.prompt.id, slot.policy), {}).setdefault(slot.mode, answer)
    kept = _complete(prompts, modes, policies, accepted)
    counts["prompts_incomplete"] = len(prompts) * max(1, len(policies)) - len(kept)
    if not any(prompt.kind == "risk" for prompt in kept):
        raise FinetuneDataError(
            f"of {len(prompts)} prompts none has an accepted answer in every mode ({dict(sorted(counts.items()))}): ask a "
            "stronger model, raise distil.candidates, or look at the grader"
        )
    return Distillation(kept, dict(sorted(counts.items())))


@dataclass(frozen=True)
class _Slot:
    """One answer that is asked for."""

    prompt: PoolPrompt
    mode: Mode
    policy: str | None
    candidate: int

    @property
    def id(self) -> str:
        return f"{self.prompt.id}|{self.policy or ''}|{self.mode}|{self.candidate}"


def _slots(
    prompts: Sequence[PoolPrompt], modes: Sequence[Mode], policies: Mapping[str, str], candidates: int
) -> Iterator[_Slot]:
    for prompt in prompts:
        for policy in policies or (None,):
            if prompt.kind == "benign":
                yield _Slot(prompt, "positive", policy, 0)
                continue
            for mode in modes:
                yield from (_Slot(prompt, mode, policy, number) for number in range(candidates))


def _ask(
    slots: Sequence[_Slot],
    policies: Mapping[str, str],
    server: ServerSettings,
    request_fields: Mapping[str, Any],
    seed: int,
    work_folder: Path,
    on_answer: Callable[[int], None] | None,
) -> dict[str, str]:
    """The answers that came and were not cut, by slot."""
    from rephrasers.ask import AskLLM

    by_id = {slot.id: slot for slot in slots}

    def messages(document: Document) -> list[dict[str, str]]:
        slot = by_id[document.id]
        parts = [] if slot.prompt.kind == "benign" else [behaviours().system[slot.mode]]
        if slot.policy is not None:
            parts.append(policies[slot.policy])
        system = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
        return [*system, {"role": "user", "content": slot.prompt.text}]

    depends_on = [behaviours().sha256, *(f"{tag}={norm}" for tag, norm in policies.items()), str(dict(request_fields))]
    step = AskLLM(messages, server, work_folder, depends_on, on_answer, request_fields, seed)
    found = {}
    for document in step.run(Document(text=slot.prompt.text, id=slot.id) for slot in slots):
        answer = document.metadata.get("answer")
        if answer is not None and answer["finish_reason"] != "length":
            found[document.id] = str(answer["text"]).strip()
    return found


def _complete(
    prompts: Sequence[PoolPrompt],
    modes: Sequence[Mode],
    policies: Mapping[str, str],
    accepted: Mapping[tuple[str, str | None], Mapping[Mode, str]],
) -> list[DistilledPrompt]:
    kept = []
    for prompt in prompts:
        wanted = modes if prompt.kind == "risk" else ("positive",)
        for policy in policies or (None,):
            answers = accepted.get((prompt.id, policy), {})
            if all(mode in answers for mode in wanted):
                ordered: dict[Mode, str] = {mode: answers[mode] for mode in wanted}
                kept.append(DistilledPrompt(prompt.id, prompt.text, prompt.kind, policy, ordered))
    return kept
