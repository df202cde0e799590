"""Every recipe that ships is valid, survives being frozen, and its identity holds what decides the output."""

import re

import pytest
import yaml

from classifiers.errors import RecipeError
from evaluation.recipe import load_recipe as load_evaluation_recipe
from evaluation.suites.description import find_description
from finetune.dpo_training import DpoRecipe
from finetune.magic_tokens.recipe import MagicRecipe
from finetune.recipe import load_recipe as load_finetune_recipe
from finetune.safesteer.recipe import SafeSteerRecipe
from finetune.sft_training import SftRecipe
from finetune.str_training import StrRecipe
from pipeline.manifest import flatten
from pipeline.recipe import dump_recipe as dump
from pipeline.recipe import load_recipe, output_part, parse_recipe, with_models_of
from pretrain.recipe import load_recipe as load_pretrain_recipe
from safetrove.ladder_recipe import load_ladder
from safetrove.own_texts import read_own
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PRETRAIN = [path for path in RECIPES if path.name.startswith("pretrain_")]
EVALUATIONS = [path for path in RECIPES if path.name.startswith("evaluate_")]
FINETUNE = [path for path in RECIPES if path.name.startswith("finetune_")]
LADDERS = [path for path in RECIPES if path.name.startswith("ladder_")]
CORPORA = [path for path in RECIPES if path not in PRETRAIN + EVALUATIONS + FINETUNE + LADDERS]
# Fine-tuning recipes of another method than plain tuning, by name.
METHODS = {
    "finetune_str": StrRecipe,
    "finetune_dpo": DpoRecipe,
    "finetune_safesteer": SafeSteerRecipe,
    "finetune_magic_tokens": MagicRecipe,
}
corpora = pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)


def plain(path, *overrides):
    return load_recipe(path, list(overrides)).model_dump(mode="json")


def test_there_are_recipes_of_both_kinds():
    assert PRETRAIN and len(CORPORA) >= 3
    assert not [p for p in (ROOT / "recipes").iterdir() if p.suffix != ".yaml"]


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_pretraining_recipes_load(path):
    recipe = load_pretrain_recipe(path)
    assert recipe.schedule().decay_updates == recipe.train_iters


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_evaluation_recipes_load_and_name_known_suites(path):
    assert [find_description(name)[0].name for name in load_evaluation_recipe(path).suites]


@pytest.mark.parametrize("path", FINETUNE, ids=lambda path: path.stem)
def test_fine_tuning_recipes_load(path):
    recipe = load_finetune_recipe(path, METHODS.get(path.stem, SftRecipe))
    assert recipe.output.is_relative_to("runs") and not str(recipe.model).startswith("/")


@pytest.mark.parametrize("path", LADDERS, ids=lambda path: path.stem)
def test_ladder_recipes_load_with_the_recipes_and_texts_that_they_name(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # its paths are relative to where the command runs
    recipe = load_ladder(path)
    named = {source.name for step in ("instruction", "instruction_tag") for source in recipe.tuning(step).data}
    assert named == set(recipe.chats)
    for files in [*recipe.texts.values(), *recipe.chats.values()]:
        assert read_own(files)
    assert [find_description(name)[0].name for name in recipe.evaluating().suites]
    assert recipe.tuning("benign").evaluation_rows and not recipe.corpus.is_absolute()


@corpora
def test_corpus_recipes_load_and_find_their_files(path):
    recipe = load_recipe(path)
    for source in recipe.sources:
        assert source.format == "hub" or source.path.startswith("/")
    for suite in recipe.ingest.decontaminate:
        assert (ROOT / "recipes" / suite.path).is_file()


@corpora
def test_a_frozen_recipe_is_the_same_recipe(path, tmp_path):
    recipe = load_recipe(path)
    assert parse_recipe(yaml.safe_load(dump(recipe)), "frozen", tmp_path) == recipe


@corpora
@pytest.mark.parametrize(
    "override",
    [
        "execution.workers=7",
        "output=elsewhere",
        "sources.0.path=/elsewhere",
        "synthesis.llm.url=http://127.0.0.1:9",
        "synthesis.llm.concurrency=3",
        "synthesis.llm.request_timeout_seconds=5",
        "score.judge.llm.api_key_variable=KEY",
    ],
)
def test_what_changes_no_output_is_no_part_of_the_identity(path, override):
    if override.startswith("synthesis") and load_recipe(path).synthesis is None:
        pytest.skip("this recipe asks no language model")
    overrides = [override, *(["synthesis.llm.kind=endpoint"] if "url" in override else [])]
    changed = plain(path, *overrides)
    assert changed != plain(path)
    assert output_part(changed) == output_part(plain(path))


@corpora
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=77", "seed"),
        ("ingest.minimum_characters=91", "ingest.minimum_characters"),
        ("ingest.maximum_characters=9000", "ingest.maximum_characters"),
        ("ingest.decontamination_words=5", "ingest.decontamination_words"),
        ("tag.rate=0.25", "tag.rate"),
        ("tag.minimum_score=3", "tag.minimum_score"),
        ("score.classifiers=[fasttext]", "score.classifiers"),
        ("score.judge.llm.temperature=0.5", "score.judge.llm.temperature"),
        ("tokenise.end_of_document=</s>", "tokenise.end_of_document"),
        ("tokenise.weights={safe: 2.0}", "tokenise.weights.safe"),
    ],
)
def test_what_decides_the_output_is_part_of_the_identity(path, override, key):
    before, after = output_part(plain(path)), output_part(plain(path, override))
    assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} - {"tokenise.weights"} == {key}


def test_a_source_and_its_licence_are_part_of_the_identity_under_the_sources_name():
    before = output_part(plain(ROOT / "recipes" / "sample.yaml"))
    after = output_part(plain(ROOT / "recipes" / "sample.yaml", "sources.0.licence=MIT"))
    assert (before["sources.sample.licence"], after["sources.sample.licence"]) == ("Apache-2.0", "MIT")


def with_models(folder):
    """The values of a recipe that names all that may be a folder beside it, and those folders."""
    for name in ("encoder", "tokens", "writer"):
        (folder / name).mkdir(parents=True)
    return {
        "name": "t",
        "sources": [{"name": "s", "format": "jsonl", "path": "in"}],
        "score": {
            "fasttext": {"weights": "weights"},
            "embedding": {"encoder": "encoder", "head": "head.safetensors"},
            "judge": {"llm": {"model": "writer"}},
        },
        "synthesis": {"llm": {"model": "writer"}},
        "tokenise": {"tokenizer": "tokens"},
    }


MODELS = {
    "score.fasttext.weights": "weights",
    "score.embedding.head": "head.safetensors",
    "score.embedding.encoder": "encoder",
    "score.judge.llm.model": "writer",
    "synthesis.llm.model": "writer",
    "tokenise.tokenizer": "tokens",
}


def test_models_and_weights_beside_a_recipe_are_found_from_any_folder(tmp_path):
    recipe = parse_recipe(with_models(tmp_path), "recipe", tmp_path)
    found = flatten(recipe.model_dump(mode="json"))
    assert {key: found[key] for key in MODELS} == {key: str(tmp_path / name) for key, name in MODELS.items()}
    assert parse_recipe(yaml.safe_load(dump(recipe)), "frozen", None) == recipe


@pytest.mark.parametrize(
    ("key", "name", "override"),
    [
        ("score.embedding.head", "model", None),
        ("score.embedding.encoder", "org/encoder", None),
        ("tokenise.tokenizer", "embedded:tokens", None),
        ("synthesis.llm.model", "writer", "synthesis.llm.url=http://127.0.0.1:9"),
    ],
)
def test_what_is_a_name_and_no_path_stays(tmp_path, key, name, override):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(with_models(tmp_path)))
    for folder in ("embedded:tokens", "model"):
        (tmp_path / folder).mkdir()
    recipe = load_recipe(path, [f"{key}={name}", *([override] if override else [])])
    assert flatten(recipe.model_dump(mode="json"))[key] == name


def test_where_hashed_weights_lie_is_no_part_of_the_identity(tmp_path):
    one, two = (parse_recipe(with_models(tmp_path / name), "recipe", tmp_path / name) for name in "ab")
    before, after = (output_part(recipe.model_dump(mode="json")) for recipe in (one, two))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"score.embedding.encoder", "tokenise.tokenizer"} | {
        key for key in MODELS if key.endswith("llm.model")
    }


def test_where_a_calibration_lies_is_no_part_of_the_identity():
    path = ROOT / "recipes" / "sample.yaml"
    gates = ('score.cascade={calibration: "/a/gates"}', 'score.cascade={calibration: "/b/gates"}')
    before, after = (output_part(plain(path, override)) for override in gates)
    assert before == after and before["score.cascade.calibration"] == "gates"


@pytest.mark.parametrize("override", ["sources.0.path=*.jsonl", "name=@x", "name=[a", "sources.0.id_column=2024-02-30"])
def test_an_override_that_is_no_yaml_is_told(override):
    with pytest.raises(RecipeError, match=rf"--set {re.escape(override)}: the value is not YAML; put it in quotes"):
        load_recipe(ROOT / "recipes" / "sample.yaml", [override])


def test_a_run_keeps_the_relative_names_under_which_it_was_begun(tmp_path, monkeypatch):
    value = with_models(tmp_path)
    begun, now = parse_recipe(value, "frozen", None), parse_recipe(value, "recipe", tmp_path)
    monkeypatch.chdir(tmp_path)
    kept = with_models_of(now, begun)
    assert kept.tokenise == begun.tokenise and kept.synthesis == begun.synthesis
    before, after = (output_part(recipe.model_dump(mode="json")) for recipe in (begun, kept))
    assert before == after
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert with_models_of(now, begun) == now


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"tokenise": {"weights": {"safe": -1.0}}}, r"tokenise\.weights\.safe: .*greater than or equal to 0"),
        ({"tokenise": {"weights": {"tagged": float("nan")}}}, r"tokenise\.weights\.tagged: "),
        (
            {"score": {"embedding": {"encoder": "org/ready", "head": "model"}, "cascade": {"calibration": "gates"}}},
            r"cascade: gates vectors of an encoder",
        ),
    ],
)
def test_what_would_fail_at_the_end_of_a_run_fails_before_it(tmp_path, section, told):
    value = {"name": "t", "sources": [{"name": "s", "format": "jsonl", "path": "in"}], **section}
    with pytest.raises(RecipeError, match=told):
        parse_recipe(value, "recipe", tmp_path)
