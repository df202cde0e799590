"""The stages of a recipe, in the order in which they run."""

from classifiers.errors import RecipeError
from pipeline.ingest.input_files import InputFile
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from pipeline.stages.card import CardCountsStage, ReportStage
from pipeline.stages.cascade import GatedEmbeddingStage
from pipeline.stages.dedup import DedupFindStage, DocumentsStage
from pipeline.stages.embed import EmbedStage
from pipeline.stages.ingest import IngestStage
from pipeline.stages.score import ClassifierStage, FinalScoreStage, JudgeStage
from pipeline.stages.synthesis import DraftStage
from pipeline.stages.tag import TagStage
from pipeline.stages.tokenise import BlendStage, TokeniserStage, TokeniseStage, synthetic_kinds, token_sources
from pipeline.stages.verify import VerifyStage


def build_stages(recipe: Recipe, run: RunFolder, files: list[InputFile]) -> list[Stage]:
    """All stages; every per-document stage has one shard for each input file."""
    n = len(files)
    kinds = synthetic_kinds(recipe)
    # a cascade's encoder reads what fastText wrote
    names = sorted(recipe.score.classifiers, key=lambda name: name != "fasttext")
    classifiers: list[Stage] = [_classifier_stage(name, recipe, run, n) for name in names]
    keeps = "embedding" in recipe.score.classifiers and recipe.score.embedding.keep_embeddings
    stages: list[Stage] = [
        TokeniserStage(recipe, run),  # reads no document: a wrong tokenizer or end token is told before the work
        IngestStage(recipe, run, files),
        DedupFindStage(recipe, run, n),
        DocumentsStage(recipe, run, n),
        *([EmbedStage(recipe, run, n)] if keeps else []),
        *classifiers,
        FinalScoreStage(recipe, run, n),
        *(DraftStage(kind, recipe, run, n) for kind in kinds),
        *(VerifyStage(kind, recipe, run, n) for kind in kinds),
        TagStage(recipe, run, n),
        *(TokeniseStage(source, recipe, run, n) for source in token_sources(recipe)),
        BlendStage(recipe, run, n),
        CardCountsStage(recipe, run, n),
    ]
    return [*stages, ReportStage(recipe, run, stages)]


def _classifier_stage(name: str, recipe: Recipe, run: RunFolder, shards: int) -> Stage:
    if name == "judge":
        return JudgeStage(recipe, run, shards)
    if name == "embedding" and recipe.score.cascade:
        return GatedEmbeddingStage(recipe, run, shards)
    return ClassifierStage(name, recipe, run, shards)


def select_stages(stages: list[Stage], names: list[str]) -> list[Stage]:
    """The stages that `names` mean: exact names, or the part before the dash (`score` means all `score-...`)."""
    if not names:
        return stages
    chosen = [s for s in stages if s.name in names or s.name.split("-")[0] in names]
    for name in names:
        if not any(name in (s.name, s.name.split("-")[0]) for s in chosen):
            raise RecipeError(f"--stage {name}: no such stage; this recipe has {', '.join(s.name for s in stages)}")
    return chosen
