"""`python -m benchmarks.finetune_comparison (erosion | steering | modes)`: the fine-tuning methods on a real model.

What is done already is kept: the same command goes on after a stop. Results: OUTPUT/results.md, results.json, results.png.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from benchmarks.finetune_comparison.settings import OWN_TEXTS, SUITES, Settings, SteeringSizes
from classifiers.errors import SafetroveError
from finetune.safety_token_regularization import Space


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong arguments or recipe."""
    given = parser().parse_args(arguments)
    settings = Settings(
        output=given.output.resolve(),
        suites=given.suites.resolve() if given.suites else None,
        suite_names=tuple(given.suite_names),
        base=given.base,
        seeds=tuple(given.seeds),
        prompts=given.prompts,
        harmless=given.harmless,
        new_tokens=given.new_tokens,
        threads=given.threads,
        precision=given.precision,
        overrides=tuple(given.overrides),
    )
    try:
        print(given.compare(settings, given))
    except SafetroveError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """Of the subcommands."""
    whole = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune_comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(required=True)
    _add_erosion(commands)
    _add_steering(commands)
    _add_modes(commands)
    return whole


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    command.add_argument("--suites", type=Path, help="folder with local copies of the suites")
    command.add_argument("--suite-names", nargs="+", default=list(SUITES), help="harmful prompts are drawn from these")
    command.add_argument("--output", type=Path, default=Path("runs") / name)
    command.add_argument("--base", default="embedded:SmolLM2-135M-Instruct", help="the model that is aligned")
    command.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    command.add_argument("--prompts", type=int, default=150, help="harmful prompts, in equal parts from the suites")
    command.add_argument("--harmless", type=int, default=104, help="held-out harmless prompts, at most")
    command.add_argument("--new-tokens", type=int, default=32, help="of an answer")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="bf16",
        help="of the training's computations; weights stay fp32",
    )
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                         help="a key of every training recipe; repeatable")  # fmt: skip
    return command


def _add_erosion(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "erosion", "benign tuning: plain against Safety Token Regularization")
    command.add_argument("--rows", type=int, default=320, help="arithmetic problems of a tuning")
    command.add_argument("--epochs", type=float, default=1.0)
    command.add_argument("--align-epochs", type=float, default=2.0)
    command.add_argument("--align-lr", type=float, default=5e-4)
    command.add_argument("--lr", type=float, default=5e-4, help="of benign tuning")
    command.add_argument("--weights", type=float, nargs="*", default=[0.1], help="of the penalty")
    command.add_argument(
        "--anchor-weights", type=float, nargs="*", default=[], help="of the penalty on refusals that come along"
    )
    command.add_argument(
        "--anchor-spaces", nargs="+", choices=get_args(Space), default=["raw"], help="in which that penalty compares"
    )
    command.add_argument(
        "--rates", type=float, nargs="*", default=[], help="sweep: learning rates of every method, first seed"
    )
    command.set_defaults(compare=_erosion)


def _erosion(settings: Settings, given: argparse.Namespace) -> str:
    from benchmarks.finetune_comparison.erosion import compare_erosion

    return compare_erosion(
        settings, given.rows, given.epochs, given.align_epochs, given.align_lr, given.lr, given.weights,
        given.anchor_weights, given.anchor_spaces, given.rates,
    )  # fmt: skip


def _add_steering(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "steering", "an eroded model: SafeSteer against whole-vocabulary distillation")
    command.add_argument("--start", type=Path, default=Path("runs/erosion/tuned/plain-seed1"), help="the eroded model")
    command.add_argument("--texts", type=Path, default=OWN_TEXTS, help="folder with direction_*.jsonl")
    for name, text in (
        ("prompts", "harmful prompts that are trained on"), ("direction", "prompts of either kind for the direction"),
        ("validation", "others, to choose it with"), ("samples", "answers to a prompt"), ("batch", "answers of an update"),
    ):  # fmt: skip
        command.add_argument(f"--steer-{name}", type=int, default=getattr(SteeringSizes(), name), help=text)
    command.add_argument(
        "--steer-answer-tokens", type=int, default=SteeringSizes().answer_tokens, help="of a sampled answer"
    )
    command.add_argument(
        "--steer-coefficient",
        type=float,
        default=SteeringSizes().coefficient,
        help="the direction is added so many times",
    )
    command.add_argument("--epochs", type=float, default=SteeringSizes().epochs)
    command.add_argument("--lr", type=float, default=SteeringSizes().rate)
    command.add_argument("--rates", type=float, nargs="*", default=[], help="other learning rates, of the first seed")
    command.set_defaults(compare=_steering, prompts=120, harmless=80)


def _steering(settings: Settings, given: argparse.Namespace) -> str:
    from benchmarks.finetune_comparison.steering import compare_steering

    sizes = SteeringSizes(
        given.steer_prompts, given.steer_direction, given.steer_validation, given.steer_samples, given.steer_batch,
        given.epochs, given.steer_coefficient, given.steer_answer_tokens, given.lr,
    )  # fmt: skip
    return compare_steering(settings, given.start.resolve(), given.texts.resolve(), sizes, given.rates)


def _add_modes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "modes", "magic tokens: co-trained, untuned, and with shuffled tokens")
    command.add_argument(
        "--start", type=Path, default=Path("runs/erosion/aligned"), help="the model that is co-trained"
    )
    command.add_argument("--rows", type=Path, help="distilled rows; none: our own texts")
    command.add_argument("--train-prompts", type=int, default=80, help="of our own texts")
    command.add_argument("--epochs", type=int, default=2)
    command.add_argument("--lr", type=float, default=3e-4)
    command.set_defaults(compare=_modes, prompts=60)


def _modes(settings: Settings, given: argparse.Namespace) -> str:
    from benchmarks.finetune_comparison.modes import compare_modes

    rows = given.rows.resolve() if given.rows else None
    return compare_modes(settings, given.start.resolve(), rows, given.train_prompts, given.epochs, given.lr)


if __name__ == "__main__":
    sys.exit(main())
