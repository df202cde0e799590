"""`safetrove publish`: a finished run or a model on the Hub."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

Repo = Annotated[str, typer.Option("--repo", metavar="ORG/NAME", help="repository on the Hub; made private if absent")]


def publish(
    path: Annotated[
        Path, typer.Argument(metavar="RUN | MODEL_FOLDER", help="run folder, or a folder with config.json")
    ],
    repo: Repo,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list files, sizes, commits and refusals; touches no network")
    ] = False,
    include_unsafe: Annotated[
        bool, typer.Option("--include-unsafe", help="the tagged unsafe originals too; the repository is gated first")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="make the repository public once all has arrived")] = False,
    model: Annotated[
        bool, typer.Option("--model", help="take the folder as a model, whatever else lies in it")
    ] = False,
    files_per_commit: Annotated[int, typer.Option(min=1, help="at most; fewer where commits time out")] = 500,
) -> None:
    """Send a finished run (Parquet by shard, with its card) or a model to the Hub. The same command goes on after a break."""
    from classifiers.errors import RecipeError
    from finetune.magic_tokens.release_guard import refuse_to_publish
    from pipeline.publishing.model_folder import is_model_folder
    from pipeline.publishing.plan import CommitBounds
    from pipeline.publishing.publish import PublishOptions, publish_model, publish_run
    from pipeline.run_folder import RunFolder

    options = PublishOptions(dry_run, include_unsafe, public, CommitBounds(files=files_per_commit))
    show = partial(print, flush=True)  # lines of a batch log appear while it works
    run = RunFolder(path)
    if not model and run.recipe.is_file():
        done = publish_run(run, repo, options, show)
    elif model or is_model_folder(path):
        if include_unsafe:
            raise RecipeError("--include-unsafe is for runs: there are no documents in a model")
        done = publish_model(path, repo, refuse_to_publish, options, show)
    else:
        raise RecipeError(f"{path}: neither a run (no recipe.yaml) nor a model (no config.json)")
    raise typer.Exit(0 if done else 1)
