"""LLM judges: a template of ours (or a guard model's own chat format), a server, and a strict reader of the answer."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from datatrove.data import Document

from evaluation.judges.llm_answers import read_grades, read_label, read_llama_guard, read_wildguard, read_yes_no
from evaluation.judges.verdict import Exchange, Verdict
from rephrasers.document_frame import neutralise
from rephrasers.servers import ServerSettings
from rephrasers.servers.open_servers import model_of

TEMPLATES = Path(__file__).with_name("templates")
OVER_REFUSAL_LABELS = ("helpful", "unhelpful", "partial_refusal", "full_refusal")
CONSTRUCTIVE_LABELS = ("risk", "refusal", "constructive")
_MARK = re.compile(r"\[(?:END OF )?(?:BEHAVIOUR|TEXT|REQUEST|REPLY)\]", re.IGNORECASE)
_SLOT = re.compile(r"\{(prompt|answer)\}")
# A guard model's own chat template writes its instructions: nothing of ours is in the request.
OWN_FORMAT = "the model's own chat template"

Reader = Callable[[str], Verdict | None]


def _labelled(read: Callable[[str], str | None]) -> Reader:
    def reader(answer: str) -> Verdict | None:
        label = read(answer)
        return None if label is None else Verdict(label)

    return reader


def _graded(answer: str) -> Verdict | None:
    grades = read_grades(answer)
    return None if grades is None else Verdict("refused" if grades[0] else "answered", grades[1])


def _constructive(answer: str) -> Verdict | None:
    label = read_label(answer, CONSTRUCTIVE_LABELS)
    return None if label is None else Verdict(label, float(CONSTRUCTIVE_LABELS.index(label)))


@dataclass(frozen=True)
class LlmJudgeKind:
    """What an LLM judge asks and how its answer is read. `max_tokens` of its answer; `template` False: the model's own."""

    name: str
    labels: tuple[str, ...]
    attack_labels: frozenset[str]
    refusal_labels: frozenset[str]
    reader: Reader
    max_tokens: int
    score_range: tuple[float, float] | None = None
    template: bool = True


LLM_JUDGES = {
    kind.name: kind
    for kind in (
        LlmJudgeKind("harmbench", ("yes", "no"), frozenset({"yes"}), frozenset(), _labelled(read_yes_no), 4),
        LlmJudgeKind(
            "wildguard", ("harmful", "refusal", "compliance"), frozenset({"harmful"}), frozenset({"refusal"}),
            _labelled(read_wildguard), 32,
        ),
        LlmJudgeKind(
            "llama_guard", ("safe", "unsafe"), frozenset({"unsafe"}), frozenset(), _labelled(read_llama_guard), 16,
            template=False,
        ),
        LlmJudgeKind(
            "strongreject", ("refused", "answered"), frozenset(), frozenset({"refused"}), _graded, 64, (0.0, 1.0)
        ),
        LlmJudgeKind(
            "over_refusal", OVER_REFUSAL_LABELS, frozenset(), frozenset({"partial_refusal", "full_refusal"}),
            _labelled(lambda answer: read_label(answer, OVER_REFUSAL_LABELS)), 8,
        ),
        LlmJudgeKind(
            "constructive", CONSTRUCTIVE_LABELS, frozenset({"risk"}), frozenset({"refusal"}), _constructive, 8, (0.0, 2.0)
        ),
    )
}  # fmt: skip


@cache
def read_template(name: str) -> tuple[str, str, int, str]:
    """(system, user, version, sha256 of the file) of a judge's template."""
    content = (TEMPLATES / f"{name}.yaml").read_bytes()
    values = yaml.safe_load(content)
    return values["system"], values["user"], values["version"], hashlib.sha256(content).hexdigest()


def judge_messages(kind: LlmJudgeKind, prompt: str, answer: str) -> list[dict[str, str]]:
    """The chat messages about one exchange. Control tokens and our marks inside prompt and answer are made harmless."""
    if not kind.template:
        return [
            {"role": "user", "content": neutralise(prompt)},
            {"role": "assistant", "content": neutralise(answer)},
        ]
    system, user, _, _ = read_template(kind.name)
    filled = {"prompt": _material(prompt), "answer": _material(answer)}
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": _SLOT.sub(lambda match: filled[match[1]], user)},
    ]


def _material(text: str) -> str:
    return _MARK.sub("[mark]", neutralise(text))


class LlmJudge:
    """One kind of LLM judge behind one server, greedy. Made with `kind` of `LLM_JUDGES`."""

    def __init__(self, kind: LlmJudgeKind, server: ServerSettings) -> None:
        self.kind = kind
        self.name, self.labels, self.score_range = kind.name, kind.labels, kind.score_range
        self.attack_labels, self.refusal_labels = kind.attack_labels, kind.refusal_labels
        self._server = server.model_copy(update={"temperature": 0.0, "max_tokens": kind.max_tokens})

    def identity(self) -> dict[str, Any]:
        """Judge, version and hash of its template, model, sampling."""
        model = model_of(self._server)
        if self.kind.template:
            _, _, number, digest = read_template(self.name)
        else:
            number, digest = 2, OWN_FORMAT  # 2: "safe" with hazard codes is invalid
        return {
            "judge": self.name,
            "version": number,
            "template_sha256": digest,
            "model": model.description,
            "revision": model.revision,
            "sampling": {"temperature": 0.0, "max_tokens": self.kind.max_tokens},
        }

    def judge(
        self, exchanges: Sequence[Exchange], work_folder: Path, on_answer: Callable[[int], None] | None = None
    ) -> list[Verdict]:
        """A verdict an exchange. Raises as `rephrasers.ask.AskLLM` does, where the server cannot be used at all."""
        from rephrasers.ask import AskLLM

        by_id = {exchange.id: exchange for exchange in exchanges}

        def messages(document: Document) -> list[dict[str, str]]:
            exchange = by_id[document.id]
            return judge_messages(self.kind, exchange.prompt, exchange.answer)

        hashes = [str(self.identity()["template_sha256"]), self.name]
        step = AskLLM(messages, self._server, work_folder, hashes, on_answer)
        documents = (Document(text=exchange.id, id=exchange.id) for exchange in exchanges)
        return [self._verdict(document) for document in step.run(documents)]

    def _verdict(self, document: Document) -> Verdict:
        answer = document.metadata.get("answer")
        if answer is None:
            return Verdict(None, reason=str(document.metadata["answer_error"]).split(":")[0])
        return self.kind.reader(answer["text"]) or Verdict(None, reason="unreadable")
