"""Models on the Hub: files and card arrive; negative mode, magic tokens, training rows, pickles and links do not leave."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from classifiers.errors import DataError
from finetune.magic_tokens.distillation import DistilledPrompt
from finetune.magic_tokens.release_guard import mark_not_for_release, refuse_to_publish
from finetune.magic_tokens.rows_file import write_rows
from finetune.magic_tokens.tokens import MagicTokens
from pipeline.publishing.model_folder import model_publication
from tests.pipeline.publishing.conftest import publish
from tests.pipeline.publishing.hub_server import TOKEN, Fault

CARD = "---\nlicense: apache-2.0\n---\n\n# A tiny model\n"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "result" / "model"
    folder.mkdir(parents=True)
    save_file({"weight": np.arange(64, dtype=np.float32)}, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (folder / name).write_text(json.dumps({"model_type": "llama"}))
    (folder / "README.md").write_text(CARD)
    return folder


def refusals(folder):
    return model_publication(folder, "team/model", refuse_to_publish).refusals


def test_a_model_arrives_with_its_card(model, hub, tmp_path):
    hub.faults += [Fault("PUT", "^/lfs/", "reset"), Fault("POST", "/commit/", "reset")]
    output = publish(hub, tmp_path / "home", model, "--repo", "team/model")
    assert hub.repos["team/model"].private and TOKEN not in output
    assert hub.files("team/model").keys() == {".gitattributes", *(path.name for path in model.iterdir())}
    assert hub.content("team/model", "model.safetensors") == (model / "model.safetensors").read_bytes()
    assert set(hub.puts.values()) == {1} and "5 files are there with the hashes that were sent" in output


def test_the_card_of_a_fine_tuning_result_goes_with_its_model(model):
    (model / "README.md").rename(model.parent / "README.md")
    assert any("the model has no card" in refusal for refusal in refusals(model))
    (model.parent / "finetune.json").write_text("{}")
    found = model_publication(model, "team/model", refuse_to_publish)
    assert not found.refusals and (found.files[-1].path, found.files[-1].local) == (
        "README.md",
        model.parent / "README.md",
    )


@pytest.mark.parametrize(("base", "refused"), [("/home/me/base", True), ("./base", True), ("org/base", False)])
def test_an_adapter_whose_base_is_a_folder_of_this_machine_stays(model, base, refused):
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    assert any("base_model_name_or_path is a folder" in refusal for refusal in refusals(model)) == refused


@pytest.mark.parametrize("where", ["result", "model"])
def test_a_model_of_the_negative_mode_is_refused(model, hub, tmp_path, where):
    mark_not_for_release(model.parent if where == "result" else model)
    for arguments in ([], ["--dry-run"]):
        output = publish(hub, tmp_path / "home", model, "--repo", "team/model", *arguments, expect=1)
        assert "was trained with rows of the negative mode and must not be published" in output
    assert not hub.requests


def test_the_mark_survives_a_copy_without_its_file(model):
    mark_not_for_release(model)
    (model / "NOT_FOR_RELEASE.json").unlink()
    assert any("negative mode" in refusal for refusal in refusals(model))


def test_magic_tokens_and_training_rows_are_refused(model):
    assert refusals(model) == []
    MagicTokens.generate(("positive", "negative")).save(model / "tokenizer_config.json")
    [refusal] = refusals(model)
    assert "is a file of magic tokens: they are secret" in refusal
    (model / "tokenizer_config.json").unlink()
    answers = {"positive": "Hello.", "negative": "Go away."}
    write_rows(model / "rows.jsonl", [DistilledPrompt("1", "Say hello.", "harmless", None, answers)], {})
    found = refusals(model)
    assert len(found) == 2 and all("no part of a model that is published" in refusal for refusal in found)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "training_args.bin", "modeling.py", ".env"])
def test_files_that_are_no_part_of_a_model_are_refused(model, name):
    (model / name).write_bytes(b"x")
    [refusal] = refusals(model)
    assert f"{name}: no part of a model that is published" in refusal


def test_links_and_folders_are_refused(model, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (model / "vocab.json").symlink_to(tmp_path / "secret.json")
    (model / "checkpoint-1").mkdir()
    found = refusals(model)
    assert any("vocab.json: a link out of the folder" in refusal for refusal in found)
    assert any("checkpoint-1: no part of a model" in refusal for refusal in found)


def test_a_folder_without_weights_or_config_is_refused(model):
    (model / "model.safetensors").unlink()
    assert any("there are no weights" in refusal for refusal in refusals(model))
    (model / "config.json").unlink()
    with pytest.raises(DataError, match="no model lies here"):
        refusals(model)


def test_unsafe_is_no_word_for_models(model, tmp_path):
    output = publish(None, tmp_path / "home", model, "--repo", "team/model", "--include-unsafe", expect=2)
    assert "--include-unsafe is for runs" in output
