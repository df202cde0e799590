"""Breaks of every kind, with a model of many shards as the load: kills, faults, losses, and nothing secret in any message."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT
from tests.pipeline.publishing.conftest import environment, publish
from tests.pipeline.publishing.hub_server import SIGNATURE, TOKEN, Fault, Repo

REPO, SHARDS = "team/model", 12


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for shard in range(SHARDS):
        save_file({"weight": np.full(64, shard, np.float32)}, folder / f"model-{shard:05d}-of-{SHARDS:05d}.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A tiny model\n")
    return folder


def assert_whole(hub, model):
    """Every file is there with our bytes, was uploaded once and committed once."""
    for path in model.iterdir():
        assert hub.content(REPO, path.name) == path.read_bytes()
    assert len(hub.puts) == SHARDS and set(hub.puts.values()) == {1}
    assert set(hub.committed.values()) == {1}


@pytest.mark.parametrize("puts", [3, 8])
def test_killed_half_way_and_started_again(model, hub, tmp_path, puts):
    arguments = [model, "--repo", REPO, "--files-per-commit", "3"]
    process = None

    def kill():
        if sum(hub.puts.values()) >= puts:
            process.send_signal(signal.SIGKILL)

    hub.faults.append(Fault("PUT", "^/lfs/", kill, times=10**6))
    process = subprocess.Popen(
        [sys.executable, "-m", "safetrove", "publish", *map(str, arguments)],
        env=environment(hub, tmp_path / "home"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.wait(120) == -signal.SIGKILL
    hub.faults.clear()
    assert "README.md" not in hub.repos[REPO].tree and sum(hub.puts.values()) >= puts
    publish(hub, tmp_path / "home", *arguments)
    assert_whole(hub, model)


def test_faults_of_the_hub_on_every_kind_of_request(model, hub, tmp_path):
    def somebody_else_commits():
        repo = hub.repos[REPO]
        repo.commit({**repo.tree, "notes.txt": hub.add_blob(b"in between")})

    hub.faults += [
        Fault("GET", "^/api/models/team/model$", 503),
        Fault("POST", "^/api/repos/create", 429),
        Fault("POST", "preupload", "reset"),
        Fault("POST", "lfs/objects/batch", 503),
        Fault("PUT", "^/lfs/", "reset", times=2),
        Fault("PUT", "^/lfs/", 500),
        Fault("POST", "/lfs/verify/", 429),
        Fault("POST", "/commit/", "reset", after=True),
        Fault("POST", "/commit/", 429, headers={"RateLimit": '"api";r=0;t=0'}),
        Fault("POST", "/commit/", somebody_else_commits),
        Fault("GET", "/tree/", 503),
    ]
    output = publish(hub, tmp_path / "home", model, "--repo", REPO, "--files-per-commit", "4")
    assert all(fault.times == 0 for fault in hub.faults)
    assert_whole(hub, model)
    assert "notes.txt" in hub.repos[REPO].tree, "somebody else's commit is kept"
    assert "not taken, trying again" in output and "412" in output
    assert SIGNATURE not in output and TOKEN not in output


def test_a_refusal_of_the_hub_ends_it_without_secrets_and_it_goes_on_later(model, hub, tmp_path):
    # the address of the upload, which the message must not show, is presigned
    hub.faults += [Fault("PUT", "^/lfs/", lambda: None, times=5), Fault("PUT", "^/lfs/", 403, times=10**6)]
    failed = publish(hub, tmp_path / "home", model, "--repo", REPO, "--files-per-commit", "4", expect=1)
    assert "injected 403" in failed and f"{hub.url}/lfs/" in failed and "the same command goes on from there" in failed
    for secret in (TOKEN, SIGNATURE):
        assert secret not in failed
        for path in (path for path in tmp_path.rglob("*") if path.is_file()):
            assert secret.encode() not in path.read_bytes(), path
    hub.faults.clear()
    publish(hub, tmp_path / "home", model, "--repo", REPO)
    assert_whole(hub, model)


def test_what_the_hub_lost_is_found(model, hub, tmp_path):
    def lose():
        for oid in hub.objects:
            hub.objects[oid] = b"lost"

    hub.faults.append(Fault("POST", "/commit/", lose))
    failed = publish(hub, tmp_path / "home", model, "--repo", REPO, expect=1)
    assert "not what was sent: model-00000-of-00012.safetensors" in failed and "and 7 more" in failed


def test_a_login_of_huggingface_hub_will_do(model, hub, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert "no token for the Hub: set HF_TOKEN" in publish(hub, home, model, "--repo", REPO, token=None, expect=1)
    assert not hub.requests
    (home / "token").write_text(TOKEN)
    publish(hub, home, model, "--repo", REPO, token=None)
    assert_whole(hub, model)


@pytest.mark.parametrize(
    ("private", "tree", "message"),
    [
        (False, [], "team/model is public: give --public"),
        (True, ["tagged/00000.parquet"], "holds unsafe texts (tagged/), and its history would keep them"),
    ],
)
def test_repositories_that_do_not_fit_are_left_alone(model, hub, tmp_path, private, tree, message):
    hub.repos[REPO] = Repo(private)
    hub.repos[REPO].commit({path: hub.add_blob(b"x") for path in tree})
    assert message in publish(hub, tmp_path / "home", model, "--repo", REPO, expect=1)
    assert not hub.puts and len(hub.repos[REPO].commits) == 1


def test_a_repository_that_somebody_else_makes_in_between_in_public_is_left_alone(model, hub, tmp_path):
    def somebody_else_makes_it():
        hub.repos[REPO] = Repo(private=False)
        hub.repos[REPO].commit({})

    hub.faults.append(Fault("POST", "^/api/repos/create", somebody_else_makes_it))
    assert "team/model is public: give --public" in publish(hub, tmp_path / "home", model, "--repo", REPO, expect=1)
    assert not hub.puts and len(hub.repos[REPO].commits) == 1
