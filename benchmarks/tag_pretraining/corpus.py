"""The corpus: real texts through the pipeline's stages, with a tokenizer trained on it, and what may not stand in it."""

from pathlib import Path
from typing import Any, Final

import yaml

from classifiers.errors import DataError
from pipeline.ingest.decontamination import Decontaminator, read_suite
from pipeline.recipe import Recipe, Suite, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.dedup import document_table
from pipeline.tables import read_rows
from pretrain.tokenizer_training import END_OF_DOCUMENT, train_tokenizer, training_texts
from safetrove.running import run_recipe

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE: Final = ROOT / "recipes" / "tag_corpus.yaml"
VOCABULARY: Final = 4096
_TO_SCORES: Final = ["ingest", "dedup-find", "documents", "score-fasttext", "score-embedding", "score-final"]


def evaluation_suites(data: Path) -> list[Suite]:
    """The files of prompts under `data` that are used to evaluate or to find a refusal direction."""
    suites = [
        Suite(name=path.stem, path=str(path), column="instruction")
        for folder in ("benchmarks", "refusal_direction")
        for path in sorted((data / folder).glob("*.json"))
    ]
    suites += [Suite(name=p.stem, path=str(p), column="prompt") for p in sorted((data / "benchmarks").glob("*.csv"))]
    if not suites:
        raise DataError(f"{data}: no files of prompts in benchmarks/ and refusal_direction/; nothing to keep out")
    return suites


def corpus_recipe(data: Path, texts: Path, tokenizer: Path, pages: str) -> Recipe:
    """`recipes/tag_corpus.yaml` with the real texts, the pages of `data/web` that match `pages`, and all suites.

    The held-out texts are a suite as well: no document shares eight words in a row with one of them.
    """
    value: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    value["sources"] += [
        {"name": name, "format": "jsonl", "path": str(texts / f"{name}.jsonl")} for name in ("annotated", "own")
    ]
    value["sources"].append({"name": "pages", "format": "warc", "path": str(data / "web" / pages)})
    held_out = Suite(name="held-out", path=str(texts / "held_out.jsonl"), column="text")
    value["ingest"]["decontaminate"] += [s.model_dump() for s in [*evaluation_suites(data), held_out]]
    value["tokenise"] = {"tokenizer": str(tokenizer), "end_of_document": END_OF_DOCUMENT}
    return parse_recipe(value, str(RECIPE), RECIPE.parent)


def build_corpus(recipe: Recipe, run: Path, tokenizer: Path) -> None:
    """Run every stage that is not done; the tokenizer is trained between scoring and tokenising."""
    for stages in (_TO_SCORES, []):
        if not stages and not tokenizer.is_dir():
            train_tokenizer(training_texts(run), tokenizer, VOCABULARY)
        if run_recipe(recipe, run, stages, False):
            raise DataError(f"{run}: the corpus is not whole; see the messages above, then run the same command again")


def overlapping_documents(recipe: Recipe, run: Path) -> list[tuple[str, str]]:
    """Documents of the finished corpus that share an n-gram with a suite, as (id, suite): there should be none.

    Reads what was written, so it does not trust the ingest stage's own count.
    """
    n = recipe.ingest.decontamination_words
    prompts = [(suite.name, prompt) for suite in recipe.ingest.decontaminate for prompt in read_suite(suite)]
    suites, folder = Decontaminator(prompts, n), RunFolder(run)
    found = []
    for shard in range(len(list((run / "documents").glob("*.parquet")))):
        for row in read_rows(document_table(folder, shard), ["id", "text"]):
            if (suite := suites.find(row["text"])) is not None:
                found.append((row["id"], suite))
    return found
