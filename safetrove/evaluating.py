"""`safetrove classifier evaluate`: classifiers and baselines on labelled texts, as tables, JSON and figures."""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers.cascade import STAGES, CascadeScore
from classifiers.errors import RecipeError
from classifiers.evaluating.figures import draw_confusions, draw_curves
from classifiers.evaluating.members import (
    ENSEMBLE,
    UNSCORED_LEVEL,
    Member,
    baselines,
    check_weights,
    classifier_members,
    classifier_scores,
    ensemble_member,
    load_cascade,
    member_from_scores,
)
from classifiers.evaluating.report import EvaluationSettings, evaluation_report
from classifiers.evaluating.tables import evaluation_tables, shares_table
from classifiers.score import Score
from classifiers.training.labels import LabelledText, read_labels, read_texts
from rephrasers.judge_requests import JudgeRequests

JUDGE, ENSEMBLE_WITH_JUDGE = "LLM judge", "ensemble + judge"


@dataclass(frozen=True)
class Asked:
    """Who is measured beside the baselines. `weights`: folders of the training (none: the shipped ones), of which the first
    is measured in full and all of them for the spread; `calibration`: a cascade's folder, for the first weights."""

    weights: Sequence[Path] = ()
    calibration: Path | None = None
    judge: JudgeRequests | None = None
    threads: int = 1


def evaluate_labels(
    labels: Path, train_labels: Path | None, settings: EvaluationSettings, asked: Asked, output: Path | None
) -> None:
    """Prints the tables; with `output` also writes evaluation.md, evaluation.json, confusion.png and recall.png there.

    Raises RecipeError for a prevalence that is no share, DataError, ModelError, IdentityError.
    """
    for level, share in settings.prevalence.items():
        if not 0.0 < share < 1.0:
            raise RecipeError(f"--prevalence-{level} {share}: a share between 0 and 1, without the ends")
    folders: list[Path | None] = [*asked.weights] or [None]
    for folder in folders:
        check_weights(folder)  # a wrong name is said before anything is computed
    rows = read_labels(labels)
    training = None if train_labels is None else read_labels(train_labels)
    texts = [row.text for row in rows]
    cascade = load_cascade(asked.calibration, folders[0], asked.threads) if asked.calibration else None
    plain, skipped = baselines(rows, training)
    found: list[list[Member]] = []
    notes: list[str] = []
    for folder in folders:
        columns: dict[str, Sequence[Score | None]] = dict(classifier_scores(texts, folder, asked.threads))
        members = classifier_members(texts, columns, {ENSEMBLE: list(columns)})
        if cascade is not None and not found:
            gated = cascade.score(texts)
            members.insert(-1, member_from_scores(cascade.name, texts, gated))
            notes.append(_reach_note(gated))
        if asked.judge is not None and not found:
            judged = _judged(rows, asked.judge)
            members.insert(-1, member_from_scores(JUDGE, texts, judged))
            members.append(ensemble_member(ENSEMBLE_WITH_JUDGE, texts, {**columns, JUDGE: judged}))
            notes.append(_judge_note(judged))
        found.append(members)
    report: dict[str, Any] = {
        "labels": {"file": labels.name, "sha256": hashlib.sha256(labels.read_bytes()).hexdigest()},
        "also_in_training": _shared(rows, training or []),
        **evaluation_report(rows, [*plain, *found[0]], settings),
        "skipped": skipped,
        "notes": notes,
    }
    if len(found) > 1:
        report["spread"] = _spread(rows, found, settings)
    tables = evaluation_tables(report)
    print(tables)
    if report["also_in_training"]:
        print(f"warning: {report['also_in_training']} of the texts are also in {train_labels}", file=sys.stderr)
    if output is not None:
        _write(output, report, tables)


def _reach_note(scores: Sequence[CascadeScore]) -> str:
    reached = sum(score.stage_reached != STAGES[0] for score in scores)
    return f"cascade: {reached} of {len(scores)} texts reached the encoder ({reached / len(scores):.1%})"


def _judge_note(scores: Sequence[Score | None]) -> str:
    missing = sum(score is None for score in scores)
    return f"{JUDGE}: {missing} of {len(scores)} texts got no valid answer and count as {UNSCORED_LEVEL}"


def show_shares(file: Path, weights: Path | None, threads: int) -> None:
    """Of texts without labels: what share each classifier scores unsafe, and drops for good."""
    texts = read_texts(file)
    columns = classifier_scores(texts, weights, threads)
    shares = {}
    for member in classifier_members(texts, columns, {ENSEMBLE: list(columns)}):
        assert member.never_train is not None
        at_1, at_3 = (sum(level >= boundary for level in member.levels) / len(texts) for boundary in (1, 3))
        never_train = sum(member.never_train) / len(texts)
        shares[member.name] = {"at_1": at_1, "at_3": at_3, "never_train": never_train, "texts": len(texts)}
    print(shares_table(shares))


def _judged(rows: Sequence[LabelledText], requests: JudgeRequests) -> list[Score | None]:
    from rephrasers.judge_requests import ask_judge
    from safetrove.judging import progress_lines

    folder = Path(tempfile.mkdtemp(prefix="safetrove-judge-"))
    try:
        texts = ((str(index), row.text) for index, row in enumerate(rows))
        return [one.judgement.score for one in ask_judge(texts, requests, folder, progress_lines(len(rows)))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shared(rows: Sequence[LabelledText], training: Sequence[LabelledText]) -> int:
    known = {row.text for row in training}
    return sum(row.text in known for row in rows)


def _spread(
    rows: Sequence[LabelledText], found: Sequence[Sequence[Member]], settings: EvaluationSettings
) -> dict[str, dict[str, list[float | None]]]:
    """{member: {measure: its value under each folder of weights}}."""
    reports = [evaluation_report(rows, members, settings)["all"] for members in found]
    names = [member.name for member in found[-1]]
    measures = [key for key, value in reports[0][names[0]].items() if not isinstance(value, int)]
    return {
        name: {key: [r[name][key] and r[name][key]["value"] for r in reports] for key in measures} for name in names
    }


def _write(folder: Path, report: dict[str, Any], tables: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("evaluation.md", tables + "\n"), ("evaluation.json", json.dumps(report, indent=1) + "\n")):
        whole = folder / f"{name}.partial"
        whole.write_text(text, encoding="utf-8")
        whole.replace(folder / name)
    draw_confusions(report, folder / "confusion.png")
    draw_curves(report, folder / "recall.png")
