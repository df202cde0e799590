"""What the card says of the LLM judge's health: its answers in the run, and the golden set that it was asked before."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from classifiers.judge import OUTCOMES
from pipeline.report.rates import wilson_interval
from pipeline.report.shown_values import NOTHING, count, percent, percent_interval

_GOLDEN_SHARES = ("over_scored", "under_scored")
_BAD_ANSWERS = {"invalid": "most_invalid", "refused": "most_refusals", "unanswered": "most_unanswered"}


def judge_health(manifests: Mapping[str, list[dict[str, Any]]], recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Answers of the documents by outcome, summed over the shards, with the share of each kind of bad ones; None where no
    judge was asked.

    `golden`: each worker asks the golden set for itself; of several reports the worst value counts (of the signed error,
    given - known level, the one farthest from 0). `allowed`: the recipe's bounds, of which a run that goes on broke none.
    """
    found = [m["metrics"]["judge"] for m in manifests.get("score-judge", []) if "judge" in m.get("metrics", {})]
    if not found:
        return None
    keys = ("asked", *OUTCOMES, "retries")
    sums: Counter[str] = Counter()
    for shard in found:
        sums.update({key: shard[key] for key in keys})
    golden = [shard["golden"] for shard in found]
    errors = [report["mean_signed_error"] for report in golden if report["mean_signed_error"] is not None]
    bounds = ((recipe.get("score") or {}).get("judge") or {}).get("health") or {}
    return {
        **{key: sums[key] for key in keys},
        "shares": {
            kind: vars(wilson_interval(sums[kind], sums["asked"])) if sums["asked"] else None for kind in _BAD_ANSWERS
        },
        "golden": {
            "texts": max(report["asked"] for report in golden),
            "without_score": max(report["asked"] - report["scored"] for report in golden),
            "mean_signed_error": max(errors, key=abs, default=None),
            **{
                key: max((report[key] for report in golden if report[key] is not None), default=None)
                for key in _GOLDEN_SHARES
            },
        },
        "allowed": {
            key: bounds.get(key) for key in (*_BAD_ANSWERS.values(), *(f"most_{key}" for key in _GOLDEN_SHARES))
        },
    }


def judge_rows(judge: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, largest share that the recipe allows) of each line of the table."""
    golden, allowed = judge["golden"], judge["allowed"]
    error = golden["mean_signed_error"]
    titles = {"invalid": "Answers that are no score", "refused": "Refusals to judge", "unanswered": "Without an answer"}
    return [
        ("Documents it was asked about", count(judge["asked"]), ""),
        *(
            (
                title,
                f"{count(judge[kind])}: {percent_interval(judge['shares'][kind])}",
                percent(allowed[_BAD_ANSWERS[kind]]),
            )
            for kind, title in titles.items()
        ),
        ("Requests sent again", count(judge["retries"]), ""),
        ("Golden texts without a score", f"{count(golden['without_score'])} of {count(golden['texts'])}", ""),
        (
            "Harmless golden texts scored 3 or more (over-scoring)",
            percent(golden["over_scored"]),
            percent(allowed["most_over_scored"]),
        ),
        (
            "Unsafe golden texts scored 0 or 1 (under-scoring)",
            percent(golden["under_scored"]),
            percent(allowed["most_under_scored"]),
        ),
        ("Mean error on the golden set, in levels", NOTHING if error is None else f"{error:+.2f}", ""),
    ]
