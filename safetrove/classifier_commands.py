"""`safetrove classifier ...`: label, train, evaluate and calibrate the safety classifiers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from classifiers.encoder import DEFAULT_PRECISION, EMBEDDED_ENCODER
from classifiers.errors import RecipeError

classifier_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Label texts with an LLM judge; train, measure and calibrate the classifiers.",
)

Method = Literal["head", "lora", "full"]
Objective = Literal["multiclass", "ordinal"]
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
    calibration: Annotated[
        Path | None, typer.Option(help="folder that `calibrate` wrote for the (first) weights: measure the cascade too")
    ] = None,
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
    from classifiers.evaluating.report import EvaluationSettings
    from safetrove.evaluating import Asked, evaluate_labels, show_shares
    from safetrove.judging import judge_requests

    if unlabelled:
        if output is not None or judge or calibration or train_labels is not None or len(weights or []) > 1:
            raise RecipeError(
                "--unlabelled prints shares only: leave out --output, --judge, --calibration, --train-labels, more --weights"
            )
        show_shares(labels, weights[0] if weights else None, threads)
        return
    if not judge and (base_url is not None or model is not None):
        raise RecipeError("--base-url and --model are the judge's: add --judge")
    requests = judge_requests(base_url, model, "digit", constrained, api_key_variable, concurrency) if judge else None
    settings = EvaluationSettings(bootstrap, seed, {1: prevalence_1, 3: prevalence_3})
    asked = Asked(weights or [], calibration, requests, threads)
    evaluate_labels(labels, train_labels, settings, asked, output)


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


@classifier_app.command(
    epilog="Example: `safetrove classifier train train.jsonl --extra classifiers/data/texts --output weights`"
)
def train(
    labels: Annotated[
        Path, typer.Argument(help="JSON lines with text, score (0-5), category; a sixth is held out for the thresholds")
    ],
    output: Annotated[Path, typer.Option(help="folder for the weights; finished seeds in it are not trained again")],
    extra: Annotated[
        list[Path] | None,
        typer.Option(help="more labels, or a folder of them: always trained on, never measured on; repeatable"),
    ] = None,
    passages: Annotated[Path | None, typer.Option(help="labels of passages whose text is in --documents")] = None,
    documents: Annotated[
        Path | None, typer.Option(help="the documents/ folder of a run over the labelled pages")
    ] = None,
    encoder: Annotated[str, typer.Option(help="the embedded encoder, a local folder, or a Hub id")] = EMBEDDED_ENCODER,
    method: Annotated[
        Method, typer.Option(help="head: frozen encoder; lora, full: head first, then its top layers")
    ] = "lora",
    objective: Annotated[Objective, typer.Option(help="loss of the level head")] = "ordinal",
    layers: Annotated[int, typer.Option(min=1, help="top layers that are fine-tuned")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="of fine-tuning")] = 3,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="of the encoder; about 2e-5 for --method full")] = 1e-3,
    unsafe_weight: Annotated[float, typer.Option(min=0.0, help="lambda: weight of levels 1-5 in the loss")] = 1.0,
    seed: Annotated[
        list[int] | None, typer.Option(help="repeatable; default: 0, 1, 2; the weights are averaged")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="seeds trained at once, one thread each")] = 1,
) -> None:
    """Train the embedding classifier and the fastText models, and set the thresholds of both on held-out texts."""
    from classifiers.training.finetuning import Finetuning
    from classifiers.training.labels import read_label_files
    from classifiers.training.passages import read_passages
    from classifiers.training.train import Plan, train_all

    if (passages is None) != (documents is None):
        raise RecipeError("--passages and --documents go together: labels, and the folder that holds their texts")
    more = read_label_files(extra or [])
    if passages is not None and documents is not None:
        more += read_passages(passages, documents)
    finetuning = Finetuning(
        method=method, objective=objective, layers=layers, epochs=epochs, learning_rate=learning_rate
    )
    plan = Plan(encoder, tuple(seed or (0, 1, 2)), unsafe_weight, finetuning, processes=processes)
    train_all(read_label_files([labels]), more, output, plan, typer.echo)


@classifier_app.command(
    epilog="Example: `safetrove classifier calibrate runs/web/documents --distil train.jsonl --output gates`"
)
def calibrate(
    texts: Annotated[Path, typer.Argument(help="drawn as the corpus is: JSON lines, Parquet, or a folder of Parquet")],
    distil: Annotated[
        Path, typer.Option(help="JSON lines with more texts to distil the gate from; labels are not read")
    ],
    output: Annotated[Path, typer.Option(help="folder for the gate and the calibration")],
    target_1: Annotated[float, typer.Option(help="recall at score >= 1, relative to the encoder")] = 0.9,
    target_3: Annotated[
        float | None, typer.Option(help="recall at score >= 3; default: all that the data can promise")
    ] = None,
    confidence: Annotated[float, typer.Option(help="one-sided, of each recall")] = 0.95,
    weights: Weights = None,
    encoder: Annotated[str, typer.Option(help="the embedded encoder, a local folder, or a Hub id")] = EMBEDDED_ENCODER,
    precision: Annotated[str, typer.Option(help="of the encoder, as in the recipe")] = DEFAULT_PRECISION,
    threads: Threads = 1,
) -> None:
    """Distil the gate of the cascade and calibrate it to a stated recall with a confidence bound."""
    from classifiers.calibration import calibrate_gates, describe

    for name, share in (("--target-1", target_1), ("--target-3", target_3), ("--confidence", confidence)):
        if share is not None and not 0.0 < share < 1.0:
            raise RecipeError(f"{name} {share}: expected a share between 0 and 1, without the ends")
    targets = {1: target_1, 3: target_3}
    calibration = calibrate_gates(texts, distil, output, weights, encoder, precision, threads, targets, confidence)
    typer.echo(describe(calibration))
