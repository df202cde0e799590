"""The ladder end to end: tiny models, four rungs, through the command line; what is kept, what is refused."""

import json
import shutil

import pytest
from ladder_corpus import make_corpus
from ladder_recipes import write_recipe
from typer.testing import CliRunner

from classifiers.errors import DataError, IdentityError, ModelError, RecipeError
from evaluation.results import read_result
from pipeline.tagging import remove_tag_ids
from pretrain.blend_file import load_blend
from pretrain.indexed_dataset import IndexedDataset
from safetrove.cli import app
from safetrove.ladder_command import prepare, run_ladder
from safetrove.ladder_recipe import load_ladder
from safetrove.ladder_steps import run_chain
from safetrove.ladder_tokens import write_tokens


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """(folder, recipe, output, what was printed) of a ladder of one seed."""
    folder = tmp_path_factory.mktemp("ladder")
    recipe = write_recipe(folder, corpus)
    command = ["evaluate", "ladder", str(recipe), "--output", str(folder / "out")]
    for chosen in (["--rung", "refusal"], []):  # one model: in this process; then the others, each in its own
        result = CliRunner().invoke(app, [*command, *chosen])
        logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("out/rungs/*/*/log.txt"))
        assert result.exit_code == 0, f"{result.output}\n{result.exception}\n{logs}"
    return folder, recipe, folder / "out", result.output


def files(output):
    return {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file() and p.name != ".lock"}


def test_the_whole_ladder_from_one_command(finished):
    _, _, output, printed = finished
    ladder = json.loads((output / "ladder.json").read_text())
    (attack, over) = ladder["tables"]
    assert (attack["judge"], attack["measure"]) == ("refusal_strings", "attack_success_rate")
    assert over["measure"] == "over_refusal_rate"
    for rung in ("refusal", "tags", "safe_beam"):
        assert set(attack["rungs"][rung]) == {"base", "instruction", "benign"}
        cell = attack["rungs"][rung]["benign"]
        assert cell["prompts"] == 2 and set(cell["seeds"]) == {"0"} and cell["value"] == cell["seeds"]["0"]["value"]
        for column, form in (("base", "completion"), ("benign", "chat")):
            result = read_result(output / f"rungs/{rung}/seed-0/{column}_evaluation")
            assert result.summary["recipe"]["form"] == form and len(result.items) == 4
            decoder = result.summary["decoder"]["decoder"]
            assert decoder == ("safe-beam" if rung == "safe_beam" else "batched")
    assert not (output / "rungs/safe_beam/seed-0/base").exists()  # it decodes the models of the rung below
    losses = ladder["trained_on"]["tags"]["losses"]
    assert set(losses) == {
        "last loss of pretraining",
        "held-out benign loss before its tuning",
        "held-out benign loss after its tuning",
    }
    assert (
        "38.8" not in printed and "25.1" in printed and "| + Safe Beam |" in printed and "Texts of our own" in printed
    )
    assert (output / "ladder.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "ladder.md").read_text() in printed


def test_every_rung_trains_on_as_many_tokens_and_its_own_mixture(finished):
    _, _, output, _ = finished
    for rung, sources in (("refusal", {"safe", "refusal"}), ("tags", {"safe", "refusal", "tagged"})):
        rows = [json.loads(line) for line in (output / f"rungs/{rung}/seed-0/pretrain/metrics.jsonl").open()]
        read = rows[-1]["tokens_by_source"]
        assert sum(read.values()) == 3 * 4 * 64 and {name for name, tokens in read.items() if tokens} == sources
        assert read["refusal"] == 3 * 64  # a quarter
    tuned = {
        r: json.loads((output / f"rungs/{r}/seed-0/instruction/finetune.json").read_text()) for r in ("refusal", "tags")
    }
    assert set(tuned["refusal"]["data"]["sources"]) == {"chats"} and tuned["tags"]["data"]["sources"]["unsafe"] >= 1


def test_no_chat_serves_pretraining_and_tuning(finished, corpus):
    folder, _, output, _ = finished
    tuned = {json.loads(line)["id"] for line in (output / "chats/chats.jsonl").open()}
    every = {json.loads(line)["id"] for line in (folder / "chats.jsonl").open()}
    shard = IndexedDataset(output / "tokens/refusal/00000")
    assert tuned and len(shard) and len(tuned) + len(shard) == len(every)


def test_a_second_call_trains_nothing_and_a_lost_step_alone_is_done_again(finished):
    _, recipe, output, _ = finished
    before = files(output / "rungs")
    assert run_ladder(recipe, [], output) == 0
    assert files(output / "rungs") == before
    lost = output / "rungs/safe_beam/seed-0/benign_evaluation"
    kept = (lost / "evaluation.json").read_bytes()
    (lost / "evaluation.json").unlink()
    assert run_ladder(recipe, [], output, ["safe_beam"], [0]) == 0  # one model: in this process
    assert (lost / "evaluation.json").read_bytes() == kept
    after = files(output / "rungs")
    assert {path for path in before if after[path] != before[path]} <= {lost / "evaluation.json", lost / "items.jsonl"}


def test_a_changed_recipe_is_refused_with_the_difference(finished):
    _, recipe, output, _ = finished
    before = files(output)
    with pytest.raises(IdentityError, match=r"benign\.lr: 0\.0001 -> 0\.5(.|\n)*shares\.refusal: 0\.25 -> 0\.3"):
        run_ladder(recipe, ["benign.settings={lr: 0.5}", "shares.refusal=0.3"], output)
    assert files(output) == before
    with pytest.raises(RecipeError, match="--rung moral: the recipe's rungs are refusal, tags, safe_beam"):
        run_ladder(recipe, [], output, ["moral"])
    with pytest.raises(RecipeError, match="--seed 7: the recipe's seeds are 0"):
        run_ladder(recipe, [], output, [], [7])


def test_a_model_is_made_by_one_process_at_a_time(finished):
    from pipeline.run_folder import RunFolder

    _, recipe, output, _ = finished
    with RunFolder(output / "rungs/refusal/seed-0").locked():
        with pytest.raises(DataError, match="another command"):
            run_chain(load_ladder(recipe), output, "refusal", 0)


def test_a_rung_that_fails_is_named_and_the_others_are_kept(corpus, tmp_path):
    recipe = write_recipe(tmp_path, corpus, rungs=["raw"], seeds=[0, 1], launcher=["false"])
    with pytest.raises(ModelError, match=r"2 of 2 models are not done(.|\n)*seed-0/log.txt"):
        run_ladder(recipe, [], tmp_path / "out")
    assert "pretraining ended with exit code 1" in (tmp_path / "out/rungs/raw/seed-1/log.txt").read_text()
    with pytest.raises(DataError, match="the folder is not empty and no ladder of ours"):
        run_ladder(recipe, [], tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_safe_beam_decodes_what_is_there_though_another_rung_fails(finished, tmp_path):
    _, recipe, output, _ = finished
    shutil.copytree(output, tmp_path / "out")
    rungs = tmp_path / "out/rungs"
    (rungs / "refusal/seed-0/base/pretrain.json").unlink()
    lost = [rungs / f"{rung}/seed-0/base_evaluation/evaluation.json" for rung in ("refusal", "safe_beam")]
    for file in lost:
        file.unlink()
    with pytest.raises(ModelError, match=r"1 of 2 models are not done(.|\n)*refusal/seed-0/log.txt"):
        run_ladder(recipe, ["launcher=['false']"], tmp_path / "out")
    assert [file.is_file() for file in lost] == [False, True]


def test_safe_beam_of_a_failed_rung_is_not_done_either(corpus, tmp_path):
    recipe = write_recipe(tmp_path, corpus, rungs=["tags", "safe_beam"], texts={}, shares={}, launcher=["false"])
    with pytest.raises(ModelError, match=r"2 of 2 models are not done(.|\n)*tags/seed-0/log.txt\. After"):
        run_ladder(recipe, [], tmp_path / "out")
    assert not (tmp_path / "out/rungs/safe_beam").exists()


def test_untagged_originals_and_fresh_tags_are_those_of_the_corpus(corpus, tmp_path):
    rungs = ["raw", "tags"]
    recipe = load_ladder(write_recipe(tmp_path, corpus, rungs=rungs, pretrain={"recipe": str(tmp_path / "pretrain.yaml"),
                                                                  "settings": {"train_iters": 60}}))  # fmt: skip
    uses = write_tokens(recipe, tmp_path / "out")
    blend = load_blend(corpus / "tokens/blend.json")
    (theirs,) = [list(IndexedDataset(corpus / "tokens" / s.shards[0])) for s in blend.sources if s.name == "tagged"]
    plain = [remove_tag_ids(ids.tolist(), blend.tag_token_id) for ids in theirs]
    assert [ids.tolist() for ids in IndexedDataset(tmp_path / "out/tokens/unsafe/00000")] == plain
    (tagged,) = [s for s in load_blend(tmp_path / "out/rungs/tags/blend.json").sources if s.name == "tagged"]
    copies = [list(IndexedDataset(tmp_path / "out/rungs/tags" / shard)) for shard in tagged.shards]
    (use,) = [use for use in uses["tags"] if use.name == "tagged"]
    assert len(copies) == -(-use.epochs // 1) >= 2
    assert [ids.tolist() for ids in copies[0]] == [ids.tolist() for ids in theirs]
    for copy in copies[1:]:
        assert [remove_tag_ids(ids.tolist(), blend.tag_token_id) for ids in copy] == plain
        assert any(len(a) != len(b) or (a != b).any() for a, b in zip(copy, theirs, strict=True))
    assert sum(use.share for use in uses["tags"]) == pytest.approx(1)
    assert write_tokens(recipe, tmp_path / "out") == uses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {}}, "the source refusal is empty: the corpus has no verified text of kind refusal.*set texts.refusal"),
        ({"rungs": ["safe_beam"]}, "safe_beam decodes the models of tags; add tags"),
        ({"rungs": ["tags", "raw"]}, "rungs: each once, in the order raw, score_0"),
        ({"shares": {"safe": 0.5}}, "shares: safe is none of unsafe, tagged"),
        ({"shares": {"tagged": 1.0}}, "shares: tagged must be above 0 and below 1"),
        ({"shares": {"refusal": 0.6, "tagged": 0.5}}, "rung tags: the shares .* leave nothing for safe; lower `shares`"),
        ({"texts": {"safe": []}}, "texts: safe is none of rephrased"),
        ({"seeds": [1, 1]}, "seeds: each once"),
        ({"corpus": "nowhere"}, "corpus nowhere: it has no tokens/blend.json"),
        ({"texts": {"refusal": [{"path": "nowhere.jsonl"}]}}, "nowhere.jsonl: no such file; texts and chats"),
        ({"texts": {"refusal": [{"path": "x", "part": [0.5, 0.5]}]}}, "part .*two numbers from 0 to 1"),
        ({"benign": {"recipe": "nowhere.yaml"}}, "nowhere.yaml: no such recipe"),
    ],
)  # fmt: skip
def test_wrong_recipes_say_what_to_do_before_anything_is_trained(corpus, tmp_path, changes, message):
    recipe = write_recipe(tmp_path, corpus, **changes)
    with pytest.raises((RecipeError, DataError), match=message):
        run_ladder(recipe, [], tmp_path / "out")
    assert not list((tmp_path / "out").glob("rungs/*/seed-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"safe_beam": {"num_beams": 4, "candidates_per_beam": 6}}, "6 candidates, of which 3 are discarded"),
        ({"evaluation.settings": {"generation.temperature": 0.8}}, "safe-beam takes 0, safe-sample a temperature"),
        ({"safe_beam": {"name": "safe-sample"}}, "decoder safe-sample and generation.temperature 0.0"),
        ({"safe_beam": {"length_penalty": 900.0}}, "length_penalty 900"),
    ],
)
def test_a_decoder_that_cannot_work_is_refused_before_anything_is_trained(tmp_path, changes, message):
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    recipe = write_recipe(tmp_path, tmp_path)
    with pytest.raises(RecipeError, match=message):
        load_ladder(recipe, overrides)
    without = load_ladder(recipe, [*overrides, "rungs=[refusal, tags]"])
    assert without.rungs == ("refusal", "tags")  # nothing decodes in that way


def test_suites_that_cannot_be_asked_are_refused_before_anything_is_trained(corpus, tmp_path):
    recipe, output = write_recipe(tmp_path, corpus, launcher=["false"]), tmp_path / "out"
    prompts = (tmp_path / "mine.jsonl").rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(DataError, match=r"suite mine: no mine.jsonl in .*; put the file there"):
        run_ladder(recipe, [], output)
    write_recipe(tmp_path, corpus, launcher=["false"])
    lines = prompts.read_text().replace("bad", "good")
    (tmp_path / "mine.jsonl").write_text(lines)
    judge = ["evaluation.settings={judges: [safety_classifier]}"]
    with pytest.raises(RecipeError, match="nothing would be measured"):
        run_ladder(recipe, judge, output)
    assert not output.exists()  # so the recipe may still be mended


def test_a_finished_ladder_needs_no_suites(finished, tmp_path):
    folder, recipe, output, _ = finished
    prompts = (folder / "mine.jsonl").rename(folder / "elsewhere.jsonl")
    try:
        assert run_ladder(recipe, [], output) == 0
    finally:
        prompts.rename(folder / "mine.jsonl")


def test_a_recipe_that_failed_before_training_may_be_mended(corpus, tmp_path):
    recipe = load_ladder(write_recipe(tmp_path, corpus, texts={}))
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(DataError, match="the source refusal is empty"):
        prepare(recipe, output)
    mended = load_ladder(write_recipe(tmp_path, corpus))
    assert [use.name for use in prepare(mended, output)["tags"]] == ["safe", "refusal", "tagged"]
    with pytest.raises(IdentityError, match="texts"):
        prepare(recipe, output)


def test_models_behind_a_server_have_no_ladder(corpus, tmp_path):
    recipe = write_recipe(tmp_path, corpus)
    server = "evaluation.settings={server: {url: 'http://127.0.0.1:9', model: m}}"
    with pytest.raises(RecipeError, match="evaluates the models that it trains: leave `server` out"):
        load_ladder(recipe, [server])


def test_judges_that_say_nothing_of_attacks_are_refused_before_anything_is_trained(tmp_path):
    recipe = write_recipe(tmp_path, tmp_path)
    judges = "evaluation.settings={judges: [{name: over_refusal, server: {url: 'http://127.0.0.1:9', model: m}}]}"
    with pytest.raises(
        RecipeError, match=r"judges of its evaluation \(over_refusal\) say nothing: add refusal_strings"
    ):
        load_ladder(recipe, [judges])


def test_suites_of_one_name_are_refused_before_anything_is_trained(tmp_path):
    about = {"name": "own", "title": "T", "kind": "harmful", "source": "test", "licence": "CC0"}
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps({**about, "file": {"name": "other.txt", "columns": {"prompt": "prompt"}}}))
    with pytest.raises(RecipeError, match=r"suites: own and .*other\.yaml both have the name 'own'"):
        load_ladder(write_recipe(tmp_path, tmp_path), [f"evaluation.settings={{suites: [own, {other}]}}"])


def test_a_corpus_without_unsafe_originals_is_refused(tmp_path):
    recipe = write_recipe(tmp_path, make_corpus(tmp_path, unsafe=False), rungs=["raw", "score_0"])
    with pytest.raises(DataError, match="the source unsafe is empty: the corpus has no unsafe originals"):
        run_ladder(recipe, [], tmp_path / "out")
