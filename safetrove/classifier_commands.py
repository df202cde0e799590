"""`safetrove classifier ...`: label, train, evaluate and calibrate the safety classifiers."""

from pathlib import Path
from typing import Annotated

import typer

classifier_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Label texts with an LLM judge, and measure the classifiers.",
)

Weights = Annotated[Path | None, typer.Option(help="folder that the training wrote; default: the shipped weights")]
Threads = Annotated[int, typer.Option(min=1, help="of the encoder")]
BaseUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible server of the judge")]
Model = Annotated[str | None, typer.Option(help="the judge's model: the server's name for it, a folder, or a Hub id")]
KeyVariable = Annotated[str | None, typer.Option(help="environment variable that holds the server's key")]
Constrained = Annotated[bool, typer.Option(help="hold the server to the form of the answer, where it can")]
Concurrency = Annotated[int, typer.Option(min=1, help="requests in flight at once")]


@classifier_app.command(
    epilog="Example: `safetrove classifier evaluate dev.jsonl --train-labels train.jsonl --output runs/evaluation`"
)
def evaluate(
    labels: Annotated[Path, typer.Argument(help="JSON lines with text, score (0-5), category; optional id, source")],
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="folder that the training wrote; default: the shipped weights; repeatable, one per seed"),
    ] = None,
    train_labels: Annotated[
        Path | None,
        typer.Option(help="what the source baseline learns from; default: the other rows (leave one out)"),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="resamples behind the 95 % intervals")] = 1000,
    seed: Annotated[int, typer.Option(help="of the resamples; with the row ids it fixes them")] = 0,
    prevalence_1: Annotated[
        float,
        typer.Option(help="share of texts at 1 or above that precision is corrected to (labelled web pages: 0.25)"),
    ] = 0.25,
    prevalence_3: Annotated[
        float,
        typer.Option(help="share of texts at 3 or above that precision is corrected to (labelled web pages: 0.02)"),
    ] = 0.02,
    output: Annotated[Path | None, typer.Option(help="folder for the tables, JSON and figures")] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="the rows have only text: print the shares that are scored unsafe")
    ] = False,
    judge: Annotated[bool, typer.Option("--judge", help="ask the LLM judge too (see --base-url and --model)")] = False,
    base_url: BaseUrl = None,
    model: Model = None,
    api_key_variable: KeyVariable = None,
    constrained: Constrained = True,
    concurrency: Concurrency = 16,
    threads: Threads = 1,
) -> None:
    """Measure the classifiers and simple baselines on labelled texts: macro F1, recall and precision at 1 and 3, with 95 %
    intervals; on web pages alone, by source and by category; confusion matrices and what recall costs."""
    from classifiers.errors import RecipeError
    from classifiers.evaluating.report import EvaluationSettings
    from safetrove.evaluating import evaluate_labels, show_shares
    from safetrove.judging import judge_requests

    if unlabelled:
        if output is not None or judge or train_labels is not None or len(weights or []) > 1:
            raise RecipeError(
                "--unlabelled prints shares only: leave out --output, --judge, --train-labels, more --weights"
            )
        show_shares(labels, weights[0] if weights else None, threads)
        return
    if not judge and (base_url is not None or model is not None):
        raise RecipeError("--base-url and --model are the judge's: add --judge")
    asked = judge_requests(base_url, model, "digit", constrained, api_key_variable, concurrency) if judge else None
    settings = EvaluationSettings(bootstrap, seed, {1: prevalence_1, 3: prevalence_3})
    evaluate_labels(labels, weights or [], train_labels, settings, threads, output, asked)


@classifier_app.command(
    epilog="Example: `safetrove classifier annotate pages.jsonl --output labels.jsonl --n 500 --base-url http://gpu1:8000 --model Qwen/Qwen2.5-7B-Instruct`"
)
def annotate(
    file: Annotated[Path, typer.Argument(help="JSON lines with text; optional id, source")],
    output: Annotated[Path, typer.Option(help="labels as JSON lines; rows that are in it are not asked again")],
    n: Annotated[int, typer.Option(min=1, help="texts to label")],
    uncertain_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="of the texts: those that the classifier is least sure of")
    ] = 0.5,
    rounds: Annotated[
        int, typer.Option(min=1, help="later rounds label where a head trained on the labels so far disagrees")
    ] = 1,
    seed: Annotated[int, typer.Option(help="of the choice; with the row ids it fixes it")] = 0,
    accept_judge: Annotated[
        bool, typer.Option("--accept-judge", help="label even with a judge that fails the golden set")
    ] = False,
    base_url: BaseUrl = None,
    model: Model = None,
    api_key_variable: KeyVariable = None,
    constrained: Constrained = True,
    concurrency: Concurrency = 16,
    weights: Weights = None,
    threads: Threads = 1,
) -> None:
    """Have an LLM judge label the texts that teach most: spread over the classifier's levels and the sources, and those
    that it is least sure of. Without --base-url a local server is started. Resumes; exit 1 where a text got no label."""
    from safetrove.annotating import Sampling, annotate_pool
    from safetrove.judging import judge_requests

    requests = judge_requests(base_url, model, "json", constrained, api_key_variable, concurrency)
    sampling = Sampling(n, rounds, uncertain_share, seed)
    raise typer.Exit(annotate_pool(file, output, sampling, requests, accept_judge, weights, threads))
