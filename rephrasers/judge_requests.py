"""What an LLM judge is asked, how, and how its answers are read: the same inside a run and outside of one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datatrove.data import Document

from classifiers.judge import (
    DOCUMENT_MARK,
    LEVEL_DIGITS,
    NEUTRAL_MARK,
    Judgement,
    JudgeMode,
    answer_schema,
    decision_question,
    judge_messages,
    judge_sha256,
    read_answer,
)
from classifiers.judge_health import GoldenReport, golden_report, golden_texts
from rephrasers.document_frame import cut, fold, neutralise
from rephrasers.servers import ServerSettings, choose_server
from rephrasers.servers.constrained import choice_fields, json_fields, logprob_fields, score_question_fields

if TYPE_CHECKING:
    from rephrasers.ask import AskLLM


@dataclass(frozen=True)
class AskedText:
    """One text's judgement, how often its request was sent again, and why there is no answer where there is none."""

    id: str
    judgement: Judgement
    retries: int
    error: str | None


@dataclass(frozen=True)
class JudgeRequests:
    """How a judge is asked. `constrained`: hold the server to the form of the answer; false for one that rejects the fields.
    `maximum_characters` of a text; a longer one is sampled evenly."""

    server: ServerSettings
    mode: JudgeMode
    constrained: bool = True
    maximum_characters: int = 4000

    def asks_decisions(self) -> bool:
        """`transformers serve` gives log-probabilities at its decision endpoint alone, one request at a time."""
        return self.mode == "digit" and choose_server(self.server) == "transformers"

    def settings(self) -> ServerSettings:
        """The server as these requests need it."""
        if self.asks_decisions():
            return self.server.model_copy(update={"continuous_batching": False, "concurrency": 1})
        return self.server

    def fields(self) -> dict[str, Any]:
        """What each request has beside the messages."""
        if self.asks_decisions():
            return score_question_fields(*decision_question())
        if self.mode == "digit":
            return choice_fields(LEVEL_DIGITS) if self.constrained else logprob_fields()
        return json_fields("judgement", answer_schema()) if self.constrained else {}

    def step(
        self,
        work_folder: Path,
        on_answer: Callable[[int], None] | None = None,
        asks_about: Callable[[Document], bool] = lambda _: True,
    ) -> "AskLLM":
        """The step that asks about documents (those that `asks_about` says); `read_answer` reads what it leaves on them.

        Answers are durable under `work_folder`; `on_answer` is told how many there are. Raises as `AskLLM` does.
        """
        from rephrasers.ask import AskLLM

        def messages(document: Document) -> list[dict[str, str]] | None:
            if not asks_about(document):
                return None
            return judge_messages(_without_marks(neutralise(document.text)), self.maximum_characters, self.mode)

        return AskLLM(messages, self.settings(), work_folder, [judge_sha256(self.mode)], on_answer, self.fields())


def _without_marks(text: str) -> str:
    """The text without what reads as the judge's document marks, also in look-alike characters."""
    return cut(text, [match.span() for match in DOCUMENT_MARK.finditer(fold(text))], NEUTRAL_MARK)


def ask_judge(
    texts: Iterable[tuple[str, str]],
    requests: JudgeRequests,
    work_folder: Path,
    on_answer: Callable[[int], None] | None = None,
) -> list[AskedText]:
    """The judgement of each (id, text), in order. Answers are durable under `work_folder`, which the caller deletes: after
    a kill the same call asks only for what is not answered. `on_answer` is told how many are.

    Uses the server that an enclosing `serving` block keeps open, else starts one. Raises as `AskLLM` does.
    """
    documents = (Document(text=text, id=identifier) for identifier, text in texts)
    return [asked_text(document) for document in requests.step(work_folder, on_answer).run(documents)]


def asked_text(document: Document) -> AskedText:
    """What `JudgeRequests.step` left on a document, read."""
    answer, error = document.metadata.get("answer"), document.metadata.get("answer_error")
    retries = answer["retries"] if answer else document.metadata.get("answer_retries", 0)
    return AskedText(document.id, read_answer(answer), retries, error)


def ask_golden(requests: JudgeRequests, work_folder: Path) -> GoldenReport:
    """The golden set, asked as documents are, and what it says of the judge."""
    texts = golden_texts()
    asked = ask_judge(((text.id, text.text) for text in texts), requests, work_folder)
    return golden_report(texts, [one.judgement for one in asked], [one.retries for one in asked])
