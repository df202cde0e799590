"""A finished run of the pipeline on 96 short texts without any model: those with venom or spite are unsafe."""

from pathlib import Path

from pipeline.recipe import dump_recipe, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from pipeline.stages.tag import TagStage
from pipeline.stages.tokenise import BlendStage, TokeniserStage, TokeniseStage
from pretrain.tokenizer_training import END_OF_DOCUMENT, train_tokenizer
from tests.pipeline.stage_runs import run_stage, write_documents, write_scores

WORDS = ("bread", "venom", "ferry", "spite")
TEXTS = [f"{word} number {n} lies by the lake and is looked at by nobody in particular" for n in range(24) for word in
         WORDS]  # fmt: skip


def make_corpus(folder: Path, unsafe: bool = True) -> Path:
    """The run folder; `unsafe` False: without unsafe originals."""
    recipe = parse_recipe(
        {
            "name": "small",
            "sources": [{"name": "texts", "format": "jsonl", "path": "in.jsonl"}],
            "synthesis": None,
            "tag": {"rate": 0.2},
            "tokenise": {"tokenizer": str(folder / "tokenizer"), "end_of_document": END_OF_DOCUMENT},
        },
        "test",
        folder,
    )
    train_tokenizer(iter([*TEXTS, "User: Assistant: a question, an answer."]), folder / "tokenizer", 320)
    run = RunFolder(folder / "corpus")
    ids = write_documents(run, TEXTS)
    levels = [4 if unsafe and ("venom" in text or "spite" in text) else 0 for text in TEXTS]
    for classifier in ("fasttext", "embedding"):
        write_scores(run, classifier, ids, levels)
    tokenise = [TokeniseStage(source, recipe, run, 1) for source in ("safe", "tagged")]
    first = [FinalScoreStage(recipe, run, 1), TagStage(recipe, run, 1), TokeniserStage(recipe, run)]
    for stage in [*first, *tokenise, BlendStage(recipe, run, 1)]:
        run_stage(stage)
    run.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    return run.root
