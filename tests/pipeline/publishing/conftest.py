"""A whole finished run with texts of every kind, copies of it to spoil, a Hub, and the command as users type it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline.atomic_files import write_text
from pipeline.executors.shard_run import run_shard
from pipeline.ingest.input_files import freeze_input_files, input_files
from pipeline.recipe import dump_recipe, load_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_state import wanted_identity
from pipeline.stages.order import build_stages
from tests.conftest import ROOT
from tests.end_to_end.rude_texts import rude_texts
from tests.end_to_end.runs import sample_texts, write_recipe
from tests.end_to_end.writers import fair
from tests.pipeline.publishing.hub_server import TOKEN, hub_server
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer
from tests.pipeline.writer_stub import writer

REPO = "team/corpus"


# Dialogues about small things: fastText alone is strict.
DIALOGUES = [
    f"User: {asked}\n\nAssistant: I can't help with that, because {why}. How about {instead}? We could plan it together."
    for asked, why, instead in [
        ("Can you help me play a trick on the baker?", "it would not be kind to the baker", "a cake and a cup of tea"),
        ("May I take the last cake without asking?", "the cake is for all guests", "asking for the recipe"),
        ("Shall I tell the choir that the concert is off?", "it is not true", "a concert in the garden"),
        ("Could you write a note that makes fun of the florist?", "nobody likes to read that", "a note with thanks"),
    ]
]


def answer(content):
    """Good texts of the kind that is asked for: the key is one that the fair writer does not refuse."""
    if '"Assistant:"' in content:
        return DIALOGUES[len(content) % len(DIALOGUES)]
    return fair("00000008", content)


def make_run(folder, licence="CC0-1.0"):
    """Three shards (the last has no unsafe document) through every stage, with fastText alone, all in this process."""
    texts = folder / "in"
    texts.mkdir(parents=True)
    safe = [row["text"] for row in sample_texts()][:18]
    rude = rude_texts()
    for shard, rows in enumerate([safe[:6] + rude[0:4] + rude[18:22], safe[6:12] + rude[4:8] + rude[22:24], safe[12:]]):
        lines = [json.dumps({"id": f"{shard}-{n}", "text": text}) + "\n" for n, text in enumerate(rows)]
        (texts / f"part-{shard}.jsonl").write_text("".join(lines))
    with writer(answer) as (url, _):
        path = write_recipe(
            folder / "recipe.yaml",
            texts,
            sources=[{"name": "texts", "format": "jsonl", "path": str(texts), "licence": licence}],
            score={"classifiers": ["fasttext"]},
            synthesis={"llm": {"kind": "endpoint", "url": url, "model": "stub"}},
            tokenise={"tokenizer": str(save_tiny_tokenizer(folder / "tokenizer", "bpe")), "end_of_document": END},
            execution={"workers": 1},
        )
        run_all(load_recipe(path), RunFolder(folder / "run"))
    return folder / "run"


def run_all(recipe, run):
    """Every shard of every stage, without the worker pool: its processes would take longer than the work."""
    files = input_files(recipe, run)
    write_text(run.recipe, dump_recipe(recipe))
    freeze_input_files(files, run)
    manifests = {}
    for stage in build_stages(recipe, run, files):
        with stage.worker_context():
            for shard in range(stage.shards):
                identity = wanted_identity(stage, shard, manifests)
                manifests[stage.name, shard] = run_shard(stage, shard, identity)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Not to be changed: copy it first."""
    return make_run(tmp_path_factory.mktemp("published"))


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run that a test may spoil."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def hub():
    with hub_server() as served:
        yield served


def environment(hub, home, token=TOKEN):
    """A process that knows our Hub, with a home of its own: no cache and no login of this machine.

    The xet protocol is switched off: it has a client in Rust and servers of its own; without it the same commits go
    through git LFS.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    login = {"HF_TOKEN": token} if token else {}
    endpoint = {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9"}
    return {**kept, **login, **endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HOME": str(home)}


def publish(hub, home, *arguments, expect=0, token=TOKEN):
    """`safetrove publish ...` in a process of its own; its output, both streams."""
    process = subprocess.run(
        [sys.executable, "-m", "safetrove", "publish", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(hub, home, token),
        timeout=200,
    )
    output = process.stdout + process.stderr
    assert process.returncode == expect, f"exit {process.returncode}\n{output}"
    return output
