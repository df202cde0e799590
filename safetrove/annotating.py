"""`safetrove classifier annotate`: an LLM judge labels the texts of a pool that teach the classifier most."""

import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.annotation import (
    Candidate,
    Choice,
    choose_first,
    choose_refining,
    expected_level,
    head_probabilities,
    margin,
    round_sizes,
    text_vectors,
)
from classifiers.ensemble import combine
from classifiers.errors import DataError, IdentityError
from classifiers.evaluating.members import load_classifiers
from classifiers.evaluating.tables import markdown_table
from classifiers.judge import judge_sha256
from classifiers.rubric import LEVELS
from classifiers.score import Score
from classifiers.training.labels import PoolText, read_pool
from rephrasers.judge_requests import AskedText, JudgeRequests, ask_judge
from rephrasers.servers import serving
from safetrove.judging import golden_breaches, progress_lines, stop_if_unfit


@dataclass(frozen=True)
class Sampling:
    """`number` texts in `rounds` rounds; `uncertain_share` of each round are those that the classifier is least sure of."""

    number: int
    rounds: int
    uncertain_share: float
    seed: int


@dataclass(frozen=True)
class Pool:
    """The texts to choose from, what the classifier says of each, and, where there are later rounds, a vector of each."""

    rows: list[PoolText]
    scores: list[Score]
    vectors: np.ndarray | None

    def candidates(self) -> list[Candidate]:
        """As the first round sees them."""
        return [
            Candidate(row.id, row.source, score.score, margin(score.probabilities))
            for row, score in zip(self.rows, self.scores, strict=True)
        ]


class Annotation:
    """The labels in one output file; answered rows are in it and are not asked again."""

    def __init__(self, file: Path, judge: dict[str, str]) -> None:
        """Raises IdentityError where the file holds labels of another judge, DataError where it is none of ours."""
        self.file, self.judge = file, judge
        self.labelled: dict[str, dict[str, Any]] = {}
        if file.exists():
            for number, line in enumerate(io.StringIO(file.read_text(encoding="utf-8")), 1):
                self._take(line, f"{file}, line {number}")

    def _take(self, line: str, where: str) -> None:
        try:
            row = json.loads(line)
            identifier, judge = row["id"], row["judge"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: not a row that this command wrote ({error!r}); give another --output") from None
        if judge != self.judge:
            raise IdentityError(
                f"{where}: labelled by {judge}, now asked is {self.judge}; labels of two judges do not belong in one "
                "file: give another --output"
            )
        self.labelled[identifier] = row

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows and writes the file anew, whole."""
        self.labelled |= {row["id"]: row for row in rows}
        whole = self.file.with_name(self.file.name + ".partial")
        with whole.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.labelled.values())
            out.flush()
            os.fsync(out.fileno())
        whole.replace(self.file)


def annotate_pool(
    file: Path,
    output: Path,
    sampling: Sampling,
    requests: JudgeRequests,
    accept_judge: bool,
    weights: Path | None,
    threads: int,
) -> int:
    """Labels `sampling.number` texts of the pool and prints a summary. Returns 1 where a chosen text has no label, else 0.

    The rows of `output` can be trained on as they are (text, score, category, source); beside that: reason, the level of
    the classifier that chose them, why and in which round they were chosen, and the judge. Raises DataError,
    IdentityError, ModelError (also for a judge that fails the golden set and is not accepted).
    """
    rows = read_pool(file)
    judge = {"model": requests.server.model, "prompt_sha256": judge_sha256(requests.mode)}
    output.parent.mkdir(parents=True, exist_ok=True)
    annotation = Annotation(output, judge)
    pool = score_pool(rows, weights, threads, with_vectors=sampling.rounds > 1)
    work_folder = output.with_name(output.name + ".work")
    failures: Counter[str] = Counter()
    asked, chosen, fit = 0, set[str](), False
    for number, size in enumerate(round_sizes(min(sampling.number, len(rows)), sampling.rounds), 1):
        choices = _choose(pool, annotation, chosen, number, size, sampling)
        chosen |= {choice.id for choice in choices}
        open_choices = [choice for choice in choices if choice.id not in annotation.labelled]
        if not open_choices:
            continue
        work_folder.mkdir(parents=True, exist_ok=True)
        with serving(requests.settings(), work_folder / "server.log"):
            if not fit:
                stop_if_unfit(golden_breaches(requests, work_folder / "golden"), accept_judge)
                fit = True
            answers = _ask(pool, open_choices, requests, work_folder / f"round-{number}")
        asked += len(answers)
        failures += _failures(answers)
        annotation.add(_labelled_rows(pool, open_choices, answers, number, judge))
    shutil.rmtree(work_folder, ignore_errors=True)
    print(summary(annotation, chosen, asked, failures))
    return int(any(identifier not in annotation.labelled for identifier in chosen))


def score_pool(rows: list[PoolText], weights: Path | None, threads: int, with_vectors: bool) -> Pool:
    """The pool with the ensemble's score of each text."""
    fasttext, embedding = load_classifiers(weights, threads)
    texts = [row.text for row in rows]
    pairs = zip(fasttext.score(texts), embedding.score(texts), strict=True)
    scores = [combine({"fasttext": first, "embedding": second}) for first, second in pairs]
    if not with_vectors:
        return Pool(rows, scores, None)
    chunks = embedding.embed(texts)
    return Pool(rows, scores, text_vectors(chunks.vectors, chunks.document, len(texts)))


def _choose(
    pool: Pool, annotation: Annotation, chosen: set[str], number: int, size: int, sampling: Sampling
) -> list[Choice]:
    """The texts of round `number`: they depend on the pool, the classifier and the labels of the rounds before it."""
    candidates = [candidate for candidate in pool.candidates() if candidate.id not in chosen]
    places = {row.id: index for index, row in enumerate(pool.rows)}
    known = [identifier for identifier in sorted(chosen) if identifier in annotation.labelled]
    if number == 1 or pool.vectors is None or not known:
        return choose_first(candidates, size, sampling.uncertain_share, sampling.seed)
    levels = [annotation.labelled[identifier]["score"] for identifier in known]
    head = head_probabilities(pool.vectors[[places[identifier] for identifier in known]], levels, pool.vectors)
    classifier = expected_level(np.array([score.probabilities for score in pool.scores]))
    apart = np.abs(expected_level(head) - classifier)
    refined = [
        replace(c, margin=margin(head[places[c.id]].tolist()), disagreement=float(apart[places[c.id]]))
        for c in candidates
    ]
    return choose_refining(refined, size, sampling.uncertain_share, sampling.seed)


def _ask(pool: Pool, choices: Sequence[Choice], requests: JudgeRequests, folder: Path) -> list[AskedText]:
    texts = {row.id: row.text for row in pool.rows}
    questions = ((choice.id, texts[choice.id]) for choice in choices)
    return ask_judge(questions, requests, folder, progress_lines(len(choices)))


def _failures(answers: Iterable[AskedText]) -> Counter[str]:
    return Counter(
        one.error.split(":")[0] if one.error else one.judgement.outcome for one in answers if not one.judgement.score
    )


def _labelled_rows(
    pool: Pool, choices: Sequence[Choice], answers: Sequence[AskedText], number: int, judge: Mapping[str, str]
) -> list[dict[str, Any]]:
    places = {row.id: index for index, row in enumerate(pool.rows)}
    found = []
    for choice, one in zip(choices, answers, strict=True):
        if one.judgement.score is None:
            continue
        row, label = pool.rows[places[choice.id]], one.judgement.score
        found.append(
            {
                "id": row.id,
                "source": row.source,
                "text": row.text,
                "score": label.score,
                "category": label.category,
                "reason": label.reason,
                "classifier_score": pool.scores[places[choice.id]].score,
                "chosen_by": choice.by,
                "round": number,
                "judge": dict(judge),
            }
        )
    return found


def summary(annotation: Annotation, chosen: set[str], asked: int, failures: Mapping[str, int]) -> str:
    """What was labelled, by the judge's level and the classifier's, and what was not."""
    rows = [annotation.labelled[identifier] for identifier in sorted(chosen) if identifier in annotation.labelled]
    pairs = Counter((row["score"], row["classifier_score"]) for row in rows)
    levels = range(len(LEVELS))
    head = ["judge \\ classifier", *(str(level) for level in levels), "all"]
    body = [
        [
            str(level),
            *(str(pairs[level, given]) for given in levels),
            str(sum(pairs[level, given] for given in levels)),
        ]
        for level in levels
    ]
    same = sum(pairs[level, level] for level in levels)
    lines = [markdown_table(head, body), ""]
    lines.append(f"{len(rows)} of {len(chosen)} chosen texts are labelled in {annotation.file} ({asked} asked now)")
    if rows:
        lines.append(f"judge and classifier give the same level to {same} of them ({same / len(rows):.0%})")
    lines += [f"without a label: {count} ({reason})" for reason, count in sorted(failures.items())]
    if failures:
        print("the same command asks again for those without a label", file=sys.stderr)
    return "\n".join(lines)
