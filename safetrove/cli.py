"""The command line. Each command imports what it needs when it is called, so that `--help` and errors are quick."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from safetrove.classifier_commands import classifier_app
from safetrove.evaluate_commands import evaluate_app
from safetrove.finetune_commands import finetune_app
from safetrove.generate_command import generate
from safetrove.magic_token_commands import magic_app
from safetrove.prompt_commands import prompts
from safetrove.publish_command import publish

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Safety pretraining: raw web text in; a scored, rephrased, tagged, tokenised corpus and its report card out.",
)

app.add_typer(classifier_app, name="classifier")
app.add_typer(prompts, name="prompts")
app.add_typer(evaluate_app, name="evaluate")
finetune_app.add_typer(magic_app, name="magic")
app.add_typer(finetune_app, name="finetune")
app.command(epilog="Example: `safetrove generate --model runs/demo/model --decoder safe-beam --prompt 'The bus'`")(
    generate
)
app.command(epilog="Example: `safetrove publish runs/demo --repo ORG/NAME --dry-run`")(publish)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, dotted; repeatable")]
Output = Annotated[Path | None, typer.Option(help="run folder; default: the recipe's output, else runs/NAME")]
Executor = Annotated[
    str | None, typer.Option(metavar="local|slurm|ray", help="who runs the shards; default: the recipe's executor")
]
Force = Annotated[bool, typer.Option("--force-stale", help="keep finished shards made under another recipe; recorded")]


@app.command(epilog="Example: `safetrove run recipes/sample.yaml --output runs/sample --set execution.workers=4`")
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file")],
    output: Output = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="only this stage (`score` means all score-...); repeatable")
    ] = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    force_stale: Force = False,
    executor: Executor = None,
) -> None:
    """Make a corpus: ingest, score, rephrase / refuse / moralise, verify, tag, tokenise, report. Resumes what is there.

    With Slurm the command submits and returns; `safetrove status` follows the jobs.
    """
    from pipeline.recipe import load_recipe
    from safetrove.running import run_recipe, run_root

    loaded = load_recipe(recipe, overrides if executor is None else [*overrides, f"execution.executor={executor}"])
    raise typer.Exit(run_recipe(loaded, run_root(loaded, output), stage or [], force_stale))


@app.command(epilog="Example: `safetrove demo --output runs/demo`")
def demo(output: Annotated[Path, typer.Option(help="run folder")] = Path("runs/demo")) -> None:
    """The whole way on the sample corpus with the embedded models, then a short pretraining run. No network, no GPU."""
    from safetrove.demo import run_demo

    raise typer.Exit(run_demo(output))


@app.command(epilog="Example: `safetrove plan recipes/sample.yaml`")
def plan(recipe: Annotated[Path, typer.Argument(help="YAML file")], overrides: Set = []) -> None:  # noqa: B006
    """What a run will need: documents, tokens, CPU time and disk, measured on a sample of the input. Writes nothing."""
    from pipeline.plan import plan_run
    from pipeline.recipe import load_recipe

    print(plan_run(load_recipe(recipe, overrides)))


@app.command(epilog="Example: `safetrove status runs/demo --json`")
def status(
    run: Annotated[Path, typer.Argument(help="run folder")],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    verify: Annotated[bool, typer.Option(help="hash every output again: finds files changed by hand")] = False,
) -> None:
    """The ledger of a run: shards, rows in and out, and why rows were left out. Exit 0 only when all is done.

    Where shards were submitted to Slurm, what it says about those that are not done.
    """
    from rich.console import Console

    from pipeline.executors.slurm_jobs import ask_slurm
    from pipeline.ledger import ledger_errors
    from pipeline.run import run_states
    from pipeline.run_folder import RunFolder
    from pipeline.shard_state import FAILED, PENDING, STALE
    from pipeline.verify_outputs import check_outputs
    from safetrove.status import print_status, summary

    folder = RunFolder(run)
    if verify:
        check_outputs(folder)
    states = run_states(folder)
    unfinished = {(state.stage.name, shard) for state in states for shard in state.shards(STALE, PENDING, FAILED)}
    shown = {**summary(folder, states, ask_slurm(folder, unfinished)), "ledger_errors": ledger_errors(states)}
    if as_json:
        print(json.dumps(shown, indent=1))
    else:
        print_status(shown, Console(width=None if sys.stdout.isatty() else 160))
        for error in shown["ledger_errors"]:
            print(f"ledger: {error}")
    raise typer.Exit(0 if shown["complete"] and not shown["ledger_errors"] else 1)


@app.command(epilog="Example: `safetrove rerun runs/demo --stage ingest --failed`")
def rerun(
    run: Annotated[Path, typer.Argument(help="run folder")],
    stage: Annotated[str, typer.Option(help="name of the stage")],
    failed: Annotated[bool, typer.Option("--failed", help="the shards that failed or are not done")] = False,
    rank: Annotated[str | None, typer.Option(help="these shards, for example 3,7")] = None,
    executor: Executor = None,
) -> None:
    """Do shards of one stage again. Later stages whose input changed become stale; `safetrove run` redoes them.

    With Slurm, later stages are submitted too, behind the shards that are done again.
    """
    from classifiers.errors import RecipeError
    from pipeline.run_folder import RunFolder
    from safetrove.running import rerun_stage

    if failed == (rank is not None):
        raise RecipeError("give either --failed or --rank 3,7")
    try:
        shards = None if rank is None else sorted({int(part) for part in rank.split(",")})
    except ValueError:
        raise RecipeError(f"--rank {rank}: shard numbers with commas between, for example 3,7") from None
    raise typer.Exit(rerun_stage(RunFolder(run), stage, shards, executor))


@app.command(epilog="Examples: `safetrove card runs/demo` and `safetrove card diff runs/a runs/b`")
def card(runs: Annotated[list[str], typer.Argument(metavar="RUN | diff RUN_A RUN_B")]) -> None:
    """Make a run's Data Safety Report Card from whatever is finished, or compare two runs' cards."""
    from classifiers.errors import RecipeError
    from pipeline.report import build_card, diff_cards
    from pipeline.report.card import card_data

    if runs[0] == "diff":
        if len(runs) != 3:
            raise RecipeError("card diff: give two run folders, for example: safetrove card diff runs/a runs/b")
        print(diff_cards(card_data(Path(runs[1])), card_data(Path(runs[2]))))  # they may be other people's runs
        return
    if len(runs) != 1:
        raise RecipeError("card: give one run folder, or: card diff RUN_A RUN_B")
    build_card(Path(runs[0]))
    for suffix in ("html", "png", "md", "json"):
        print(Path(runs[0]) / "report" / f"card.{suffix}")


@app.command(epilog="""Example: `echo '{"text": "hello"}' | safetrove score`""")
def score(
    files: Annotated[list[Path] | None, typer.Argument(help="JSON lines; default: standard input")] = None,
) -> None:
    """Score texts: JSON lines in (`text`, optional `id`), JSON lines out in the same order."""
    from safetrove.scoring import score_lines

    raise typer.Exit(score_lines(files or [], sys.stdout))


@app.command(epilog="Example: `safetrove pretrain recipes/pretrain_demo.yaml --set data=runs/demo/tokens/blend.json`")
def pretrain(
    recipe: Annotated[Path, typer.Argument(help="YAML file")],
    overrides: Set = [],  # noqa: B006
    print_megatron: Annotated[
        bool, typer.Option("--print-megatron", help="print Megatron-LM's commands for the same run, and train nothing")
    ] = False,
) -> None:
    """Train on a corpus's tokens. Resumes from the last checkpoint. On several ranks: `torchrun ... -m safetrove pretrain`."""
    from safetrove.pretraining import print_megatron_script, run_pretraining

    raise typer.Exit((print_megatron_script if print_megatron else run_pretraining)(recipe, overrides))


@app.command(epilog="Example: `safetrove export runs/demo --kind refusal --output runs/demo-datasets`")
def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    kind: Annotated[
        list[str] | None, typer.Option(help="rephrased, refusal or moral; repeatable; default: all")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder of the data sets; default: RUN/datasets")] = None,
) -> None:
    """Write the synthetic texts as data sets for `datasets.load_dataset` and the Hub: Parquet files and a card each."""
    from pipeline.dataset_export.export import export_datasets
    from pipeline.run_folder import RunFolder

    for folder in export_datasets(RunFolder(run), output or run / "datasets", kind):
        print(folder)


@app.command(epilog="Example: `safetrove verify runs/demo`")
def verify(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Score the texts under synthetic/ again, apart from any stage; exit 1 where one fails the gate of its kind."""
    from pipeline.gate_check import check_gates
    from pipeline.run_folder import RunFolder

    results = check_gates(RunFolder(run))
    for result in results:
        print(
            f"{result.kind}: {result.texts:,} texts in {result.shards} shards, {len(result.failing):,} fail their gate"
        )
        for table, text_id in result.failing:
            print(f"  {table}: {text_id}", file=sys.stderr)
    failing = [result for result in results if result.failing]
    for result in failing:
        shards = ",".join(map(str, result.failing_shards))
        print(f"do it again with: safetrove rerun {run} --stage verify-{result.kind} --rank {shards}", file=sys.stderr)
    raise typer.Exit(1 if failing else 0)


@app.command(epilog="Example: `safetrove doctor`")
def doctor() -> None:
    """What of this machine and environment will work, and what is missing."""
    from safetrove.doctor import run_doctor

    raise typer.Exit(run_doctor())
