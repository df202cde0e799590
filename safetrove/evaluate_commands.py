"""`safetrove evaluate ...`: which suites there are, evaluate a model, compare results."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

evaluate_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Is a model safer, and is it still useful: suites, judges, measures, comparisons.",
)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, dotted; repeatable")]
_SECONDS_BETWEEN_LINES = 10.0


@evaluate_app.command(epilog="Example: `safetrove evaluate suites --folder benchmarks`")
def suites(
    folder: Annotated[Path | None, typer.Option(help="folder with local copies: says which suites are there")] = None,
) -> None:
    """The suites that have descriptions: what they hold, licence, where they are loaded from."""
    from rich.console import Console
    from rich.table import Table

    from evaluation.suites.description import FOLDER, known_suites

    table = Table(box=None, pad_edge=False)
    for column in ("suite", "kind", "licence", "loaded from", "title"):
        table.add_column(column, overflow="fold")
    for suite in known_suites().values():
        places = [place for place in (folder, FOLDER) if place is not None]
        local = suite.file is not None and any((place / suite.file.name).is_file() for place in places)
        hub = "" if suite.hub is None else suite.hub.repository
        wanted = "" if suite.file is None else f"file {suite.file.name}"
        origin = wanted if local else " or ".join(part for part in (wanted and f"{wanted} (absent)", hub) if part)
        table.add_row(suite.name, suite.kind, suite.licence, origin, suite.title)
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False, highlight=False)


@evaluate_app.command(
    epilog="Example: `safetrove evaluate run recipes/evaluate_own.yaml --output runs/evaluation --set model=runs/model`"
)
def run(
    recipe: Annotated[
        Path | None, typer.Argument(help="YAML file; default: the embedded model on our own suite")
    ] = None,
    output: Annotated[Path, typer.Option(help="result folder; the same one again goes on where it stopped")] = Path(
        "runs/evaluation"
    ),
    overrides: Set = [],  # noqa: B006 (typer copies it)
) -> None:
    """Answer every prompt of the suites, judge the answers, measure. Resumes."""
    from evaluation.recipe import load_recipe
    from evaluation.run import evaluate

    began = time.monotonic()
    summary = evaluate(load_recipe(recipe, overrides), output, on_progress=_progress())
    print_measures(summary)
    print(f"{output}: done in {time.monotonic() - began:.0f} s")
    invalid = sum(row["invalid"] for row in summary["measures"])
    if invalid:
        print(f"warning: {invalid} judgements are invalid; they are counted, and in no rate", file=sys.stderr)


@evaluate_app.command(epilog="Example: `safetrove evaluate compare runs/base runs/tuned --output runs/comparison`")
def compare(
    results: Annotated[
        list[Path], typer.Argument(help="result folders; the first is what the others are tested against")
    ],
    output: Annotated[Path, typer.Option(help="folder for comparison.md, .json, .html and .png")] = Path(
        "runs/comparison"
    ),
) -> None:
    """Results side by side: table with intervals and paired tests, a page down to single answers, a figure."""
    from evaluation.comparison.compare import compare_results

    for line in compare_results(results, output):
        print(line)


@evaluate_app.command(epilog="Example: `safetrove evaluate ladder recipes/ladder_toy.yaml --output runs/ladder`")
def ladder(
    recipe: Annotated[Path, typer.Argument(help="YAML file")],
    output: Annotated[Path, typer.Option(help="folder of the ladder; the same one again goes on")] = Path(
        "runs/ladder"
    ),
    rung: Annotated[list[str] | None, typer.Option(help="only this rung (and what it needs); repeatable")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="only this seed of the recipe; repeatable")] = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
) -> None:
    """The paper's ablation from one corpus: train, tune and evaluate each rung; the table beside the paper's numbers."""
    from safetrove.ladder_command import run_ladder

    raise typer.Exit(run_ladder(recipe, overrides, output, rung or [], seed or []))


@evaluate_app.command(
    epilog="Example: `safetrove evaluate robustness recipes/evaluate_own.yaml --output runs/robustness --set model=runs/model`"
)
def robustness(
    recipe: Annotated[
        Path | None, typer.Argument(help="YAML file of `evaluate run`; default: the embedded model on our own suite")
    ] = None,
    output: Annotated[Path, typer.Option(help="folder; the same one again goes on where it stopped")] = Path(
        "runs/robustness"
    ),
    tuning: Annotated[
        Path | None, typer.Option(help="YAML file of `finetune sft`; default: recipes/finetune_benign_arithmetic.yaml")
    ] = None,
    overrides: Set = [],  # noqa: B006
    tuning_overrides: Annotated[
        list[str], typer.Option("--set-tuning", metavar="KEY=VALUE", help="override a key of the tuning; repeatable")
    ] = [],  # noqa: B006
) -> None:
    """What benign fine-tuning does to a model's safety: evaluate, tune, evaluate again, paired tests on the same prompts."""
    from safetrove.robustness import BENIGN_TUNING, run_robustness

    for line in run_robustness(recipe, overrides, tuning or BENIGN_TUNING, tuning_overrides, output, _progress()):
        print(line)


@evaluate_app.command(
    epilog="Example: `safetrove evaluate capability runs/model --task arc_easy --task piqa --output runs/capability`"
)
def capability(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, or the embedded model")],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="lm-eval's name of a task; repeatable; default: the paper's nine")
    ] = None,
    task_folder: Annotated[Path | None, typer.Option(help="folder with YAML tasks of your own")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="documents of a task; default: all")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="documents at once")] = 8,
    chat: Annotated[bool, typer.Option("--chat/--completion", help="prompts in the model's chat template")] = False,
    output: Annotated[Path, typer.Option(help="folder for capability.json")] = Path("runs/capability"),
) -> None:
    """Is the model still useful: tasks of lm-eval, with 95 % intervals. Needs `pip install 'safetrove[eval]'`."""
    from evaluation.measures.capability import PAPER_TASKS, RESULT_FILE, measure_capability

    for measure in measure_capability(model, tasks or PAPER_TASKS, output, task_folder, limit, batch_size, chat):
        print(measure.as_text())
    print(output / RESULT_FILE)


def print_measures(summary: dict[str, Any]) -> None:
    """The measures of one evaluation as a table."""
    from rich.console import Console
    from rich.table import Table

    from evaluation.comparison.table import interval_text

    table = Table(box=None, pad_edge=False)
    for column in ("suite", "attack", "judge", "measure"):
        table.add_column(column)
    for column in ("value [95 %]", "n", "invalid"):
        table.add_column(column, justify="right")
    for row in summary["measures"]:
        table.add_row(
            row["suite"],
            row["attack"],
            row["judge"],
            row["measure"],
            interval_text(row),
            str(row["n"]),
            str(row["invalid"]),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False, highlight=False)


def _progress() -> Callable[[str, int, int], None]:
    """Prints counts, on standard error: a line that is renewed on a terminal, one every ten seconds elsewhere."""
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if done == total or terminal or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            print(
                f"{what}: {done} of {total}",
                end="\r" if terminal and done < total else "\n",
                file=sys.stderr,
                flush=True,
            )

    return report
