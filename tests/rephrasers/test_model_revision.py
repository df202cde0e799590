"""The revision of a model in a folder: other weights of the same names and sizes are another model."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from classifiers.errors import ModelError
from rephrasers import models
from rephrasers.models import resolve_model
from rephrasers.prompt_length import token_counter
from rephrasers.servers import ServerSettings
from rephrasers.servers.open_servers import model_of
from tests.finetune.tiny_llama import make_model, make_tokenizer


def write_model(folder, weights):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return resolve_model(str(folder)).revision


@pytest.mark.parametrize("whole_bytes", [1 << 20, 1 << 10])
def test_other_weights_of_the_same_size_are_another_model(tmp_path, monkeypatch, whole_bytes):
    monkeypatch.setattr(models, "WHOLE_BYTES", whole_bytes)
    monkeypatch.setattr(models, "BLOCK_BYTES", 64)
    weights = os.urandom(500_000)
    first = write_model(tmp_path / "a", weights)
    assert first == write_model(tmp_path / "b", weights)  # wherever the folder lies, whenever it was written
    for changed in (b"\0" * 64 + weights[64:], weights[:-64] + b"\0" * 64, weights[:1000] + os.urandom(499_000)):
        assert write_model(tmp_path / "a", changed) != first
    assert write_model(tmp_path / "a", weights[:-1]) != first
    os.rename(tmp_path / "b" / "model.safetensors", tmp_path / "b" / "other.safetensors")  # noqa: PTH104
    assert resolve_model(str(tmp_path / "b")).revision != first


def test_a_hub_model_without_a_known_commit_is_refused_until_it_is_downloaded_or_pinned(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"model org/name: .*\(hf download org/name\), or pin it: org/name@COMMIT"):
        resolve_model("org/name")
    assert resolve_model("org/name@abc123").revision == "abc123"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("0123abcd")
    assert resolve_model("org/name").revision == "0123abcd"


def test_a_pinned_commit_is_the_one_that_is_loaded(tmp_path, monkeypatch):
    """The cache holds two commits of a model; `main` is not the pinned one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository, commits = tmp_path / "models--org--name", ("a" * 40, "b" * 40)
    for seed, commit in enumerate(commits):
        make_model(60, seed).save_pretrained(repository / "snapshots" / commit)
        make_tokenizer().save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commits[1])
    weights = {}
    for name in (f"org/name@{commits[0]}", f"org/name@{commits[1]}", "org/name"):
        weights[name] = resolve_model(name).load(AutoModelForCausalLM).model.embed_tokens.weight
        assert resolve_model(name).load(AutoTokenizer).chat_template
    first, second, main = weights.values()
    assert not torch.equal(first, second) and torch.equal(main, second)


def test_what_needs_no_weights_needs_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = ServerSettings(url="http://gpu1:8000", model="org/name", tokenizer="org/other")
    assert model_of(settings).revision == "endpoint"
    asked = []
    monkeypatch.setattr("rephrasers.prompt_length._count", lambda *given: asked.append(given[:2]) or 7)
    assert token_counter(settings, model_of(settings))([]) == 7 and asked == [("org/other", "main")]


def test_large_files_are_read_in_part(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(40 << 30)  # a sparse file: 40 GiB that nobody could read here in the time of a test
    before = resolve_model(str(folder)).revision
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert resolve_model(str(folder)).revision != before
