"""The LLM judge of `safetrove classifier`: which server is meant, and whether it is fit to label."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from classifiers.errors import ModelError, RecipeError
from classifiers.judge import JudgeMode
from classifiers.judge_health import HealthBounds, breaches
from pipeline.recipe import JudgeHealth, JudgeServer
from rephrasers.judge_requests import JudgeRequests, ask_golden

_SECONDS_BETWEEN_LINES = 10.0
MAX_CONTEXT = 4096


def judge_requests(
    base_url: str | None,
    model: str | None,
    mode: JudgeMode,
    constrained: bool,
    api_key_variable: str | None,
    concurrency: int,
) -> JudgeRequests:
    """Requests to the endpoint at `base_url`, or, without one, to a local server of `model` (None: the recipes' default).

    Raises RecipeError for an address that is none.
    """
    url = None if base_url is None else base_url.rstrip("/").removesuffix("/v1")
    given = {"model": model} if model is not None else {}
    try:
        server = JudgeServer(
            url=url, api_key_variable=api_key_variable, concurrency=concurrency, max_context=MAX_CONTEXT, **given
        )
    except ValidationError as error:
        raise RecipeError(f"--base-url {base_url}: {error.errors()[0]['msg']}") from None
    return JudgeRequests(server, mode, constrained)


def golden_breaches(requests: JudgeRequests, work_folder: Path) -> list[str]:
    """Asks the golden set; a line for each bound (the recipes' defaults) that the answers break."""
    report = ask_golden(requests, work_folder)
    return breaches(report.counts, report, HealthBounds(**JudgeHealth().model_dump()))


def stop_if_unfit(broken: list[str], accepted: bool) -> None:
    """Raises ModelError with what is wrong with a judge, unless the user accepted it: then it is only printed."""
    if not broken:
        return
    lines = "\n".join(f"  {line}" for line in broken)
    if not accepted:
        raise ModelError(
            f"the judge fails the golden set, nothing was asked:\n{lines}\n"
            "take another model, or add --accept-judge to label with this one all the same"
        )
    print(f"warning: the judge fails the golden set:\n{lines}", file=sys.stderr)


def progress_lines(total: int) -> Callable[[int], None]:
    """Prints, on standard error, how many answers are in; a line every ten seconds and one at the end."""
    last = time.monotonic()

    def report(answered: int) -> None:
        nonlocal last
        if answered == total or time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"judge: {answered} of {total} answered", file=sys.stderr)

    return report
