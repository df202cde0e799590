"""`safetrove prompts`: work on prompts, with yields and texts side by side."""

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

prompts = typer.Typer(
    no_args_is_help=True,
    help="Work on the prompts that rewrites are asked for with.",
    epilog="Example: `safetrove prompts compare --styles podcast_host,teacher_script --n 4`",
)
# How much of a page the embedded writer can follow.
EMBEDDED_CHARACTERS = 600


@prompts.callback()
def _group() -> None:
    """Keeps `compare` a command of its own while it is the only one."""


@prompts.command(epilog="Example: `safetrove prompts compare runs/demo --styles podcast_host,my_style.yaml --n 6`")
def compare(
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE ... | RUN]", help="JSON lines or a run; default: sample pages")
    ] = None,
    styles: Annotated[
        str,
        typer.Option(
            help="names of prompts or .yaml files of your own, with commas between; default: all twelve styles"
        ),
    ] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="documents")] = 4,
    scores: Annotated[str, typer.Option(help="only documents with these scores")] = "1,2,3",
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint, without /v1; default: our own server")
    ] = None,
    model: Annotated[str | None, typer.Option(help="writer; default: the run's, else the embedded one")] = None,
    temperature: Annotated[float | None, typer.Option(help="default: the run's, else 0.7")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="of a text; default: the run's, else 512")] = None,
    characters: Annotated[
        int | None,
        typer.Option(min=200, help="how much of a document is shown, in pieces; default: the run's, else 9600"),
    ] = None,
    seed: Annotated[int, typer.Option(help="draws the documents and the sampling")] = 0,
    output: Annotated[Path, typer.Option(help="folder for the page and the answers")] = Path("runs/prompts"),
) -> None:
    """Run styles over a few documents: the yield of each as a table, source and texts side by side as a page.

    Answers are kept under the output folder: called again, only what changed is asked for.
    """
    from pipeline.prompt_comparison.comparison import compare_styles
    from pipeline.prompt_comparison.sources import Ensemble, draw_documents
    from rephrasers.embedded_writer import EMBEDDED_NAME

    chosen = _styles(styles)
    wanted = _levels(scores)
    recipe, documents = _sources(sources or [])
    settings = _settings(
        recipe, {"url": base_url, "model": model, "temperature": temperature, "max_tokens": max_tokens}
    )
    small = settings.model == EMBEDDED_NAME and settings.url is None and recipe is None
    ensemble = cache(lambda: Ensemble(_classifiers(recipe)))
    drawn = draw_documents(documents, n, wanted, seed, ensemble)
    result = compare_styles(
        drawn,
        chosen,
        settings,
        output / "answers",
        lambda texts: ensemble().levels(texts),
        seed,
        _limits(recipe, characters or (EMBEDDED_CHARACTERS if small else None)),
        _progress,
    )
    _show(result, output / "compare.html")


def _styles(text: str) -> Any:
    from pipeline.prompt_comparison.comparison import chosen_styles
    from rephrasers.prompt_files import STYLE_NAMES

    return chosen_styles([name.strip() for name in text.split(",")] if text else list(STYLE_NAMES))


def _levels(text: str) -> list[int]:
    from classifiers.errors import RecipeError

    parts = [part.strip() for part in text.split(",")]
    if not all(part in {"0", "1", "2", "3", "4", "5"} for part in parts):
        raise RecipeError(f"--scores {text}: levels from 0 to 5 with commas between, for example 1,2,3")
    return sorted({int(part) for part in parts})


def _sources(paths: list[Path]) -> tuple[Any, Any]:
    """(the recipe and folder of a run, or None; the documents)."""
    from classifiers.errors import RecipeError
    from pipeline.prompt_comparison.sources import SourceDocument, file_documents, run_documents
    from pipeline.run import load_frozen_recipe
    from pipeline.run_folder import RunFolder
    from safetrove.sample.pages import read_pages

    if any(path.is_dir() for path in paths):
        if len(paths) > 1:
            raise RecipeError("prompts compare: give one run folder, or files; not several of the kinds")
        run = RunFolder(paths[0])
        return (load_frozen_recipe(run), run), run_documents(run)
    if paths:
        return None, file_documents(paths)
    pages = [page for page in read_pages() if not page.malformed and page.body]
    return None, [SourceDocument(page.url, f"{page.title}\n\n{page.body}", page.score, page.language) for page in pages]


def _settings(recipe: Any, asked_for: dict[str, Any]) -> Any:
    """The run's server, else the default one, with what the command line says."""
    from pydantic import ValidationError

    from classifiers.errors import RecipeError
    from rephrasers.servers.settings import ServerSettings

    asked_for = {name: value for name, value in asked_for.items() if value is not None}
    # More requests at once are slower where the writer shares two cores.
    default = {} if "url" in asked_for else {"concurrency": 8}
    base = recipe[0].synthesis.llm.model_dump() if recipe and recipe[0].synthesis else default
    if "url" in asked_for:
        asked_for["kind"] = "endpoint"
    try:
        return ServerSettings(**{**base, **asked_for})
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise RecipeError(f"prompts compare: {lines}") from None


def _limits(recipe: Any, characters: int | None) -> Any:
    """How long documents are shown: as the run does, else by a recipe's defaults."""
    from pipeline.prompt_comparison.comparison import Limits
    from pipeline.recipe import Synthesis

    synthesis = (recipe[0].synthesis if recipe else None) or Synthesis()
    return Limits(characters or synthesis.source_characters, synthesis.piece_characters, synthesis.most_pieces)


def _classifiers(recipe: Any) -> Any:
    """The stages whose classifiers verify in a run; none: those that ship."""
    from pipeline.stages.verify import VerifyStage

    if recipe is None:
        return ()
    settings, run = recipe
    return VerifyStage("rephrased", settings, run, 0).verification.classifiers


def _progress(answered: int, total: int) -> None:
    if sys.stderr.isatty() or answered == total or answered % 10 == 0:
        end = "\r" if sys.stderr.isatty() and answered < total else "\n"
        print(f"{answered} of {total} answers", end=end, file=sys.stderr, flush=True)


def _show(result: Any, page: Path) -> None:
    """Write the page, print the table."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.atomic_files import write_text
    from pipeline.prompt_comparison.page import render_page

    write_text(page, render_page(result))
    table = Table(box=None, pad_edge=False)
    table.add_column("style")
    for column in ("asked", "passed", "yield"):
        table.add_column(column, justify="right")
    table.add_column("rules broken", overflow="fold")
    for row in result.yields():
        why = ", ".join(f"{reason} {times}" for reason, times in row.reasons.items())
        table.add_row(row.style, str(row.asked), str(row.passed), f"{100 * row.passed / row.asked:.0f} %", why)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False, highlight=False)
    print(f"writer: {result.writer}; {len(result.documents)} documents, the same for each style")
    cut = [document for document in result.documents if document.cut]
    if cut:
        print(
            f"{len(cut)} of them are too long: their first {len(cut[0].text):,} characters were rewritten and the rest was "
            "not (--characters)"
        )
    print(page)
