"""A run on the Hub: what arrives, what never leaves, breaks of every kind, and nothing secret in anything written."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from classifiers.errors import RecipeError
from safetrove.cli import app
from tests.conftest import ROOT
from tests.pipeline.publishing.conftest import REPO, environment, publish
from tests.pipeline.publishing.hub_server import SIGNATURE, TOKEN, hub_server

TEXTS = ("safe", "rephrased", "refusal", "moral")


def rows(run, table):
    return [row for path in sorted((run / table).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def read_back(hub, home, name, split):
    """The rows as a stranger's process gets them with datasets.load_dataset."""
    code = (
        "import json, sys\nfrom datasets import load_dataset\n"
        f"print(json.dumps(list(load_dataset({REPO!r}, {name!r}, split={split!r})), default=str))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(hub, home), capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def written_files(*folders):
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def published(finished_run, tmp_path_factory):
    """(run, Hub, output) after one publication, for the tests that only look."""
    folder = tmp_path_factory.mktemp("once")
    run = shutil.copytree(finished_run, folder / "run")
    with hub_server() as hub:
        output = publish(hub, folder / "home", run, "--repo", REPO)
        yield run, hub, output


def test_a_run_arrives_and_is_read_back(published, tmp_path):
    run, hub, output = published
    repo = hub.repos[REPO]
    assert repo.private and not repo.gated
    for config in TEXTS:
        assert f"{config}: " in output and "rows read back" in output
    files = hub.files(REPO)
    staged = run / "publish" / "files"
    ours = {path: sha for path, sha in files.items() if path != ".gitattributes"}
    local = {
        path.relative_to(staged).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in written_files(staged)
        if path.suffix != ".parquet" or pq.read_metadata(path).num_rows
    }
    assert ours == local
    unsafe = {row["id"] for row in rows(run, "scores/final") if row["score"] or row["never_train"]}
    assert unsafe
    safe = read_back(hub, tmp_path / "stranger", "safe", "train")
    wanted = [row for row in rows(run, "documents") if row["id"] not in unsafe]
    assert [row["id"] for row in safe] == [row["id"] for row in wanted]
    assert [row["text"] for row in safe] == [row["text"] for row in wanted]
    for kind in TEXTS[1:]:
        stored = rows(run, f"synthetic/{kind}")
        assert stored and sum(pq.read_metadata(p).num_rows for p in (staged / kind).glob("*.parquet")) == len(stored)
    assert read_back(hub, tmp_path / "stranger", "refusal", "train")[0]["turns"]
    record = json.loads((run / "publish" / "published.json").read_text())
    assert record["commit"] == repo.commits[-1][0] and record["rows"]["safe"] == len(wanted)


def test_no_unsafe_text_tag_token_or_quarantine_is_in_any_file_that_was_sent(published):
    run, hub, _ = published
    unsafe = [row for row in rows(run, "scores/final") if row["score"] or row["never_train"]]
    texts = {row["id"]: row["text"] for row in rows(run, "documents")}
    sent = hub.repos[REPO].tree
    assert not [
        path for path in sent if path.startswith(("tagged", "tokens", "quarantine", "documents", "drafts", "scores"))
    ]
    assert all(
        path.split("/")[0].split("-")[0] in {*TEXTS, "report", "README.md", "croissant.json", ".gitattributes"}
        for path in sent
    )
    columns = set()
    for path in sent:
        content = hub.content(REPO, path)
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(content))
            columns |= set(table.column_names)
            content = json.dumps(table.to_pylist(), default=str, ensure_ascii=False).encode()
        for row in unsafe:
            start = json.dumps(texts[row["id"]][:60], ensure_ascii=False)[1:-1]
            assert start.encode() not in content, (path, row["id"])
    assert "slots" not in columns and "record" not in columns


def test_the_card_and_the_croissant_file_say_what_is_there(published):
    run, hub, _ = published
    card = hub.content(REPO, "README.md").decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "cc0-1.0" and "en" in metadata["language"]
    names = [config["config_name"] for config in metadata["configs"]]
    assert names == ["safe", "rephrased", "rephrased-yields", "refusal", "refusal-yields", "moral", "moral-yields"]
    assert metadata["configs"][0]["default"] is True
    assert (
        "## Data Safety Report Card" in card
        and "](report/card.png)" in card
        and "report/card.png" in hub.repos[REPO].tree
    )
    assert "| texts | CC0-1.0 |" in card and "`prompt_sha256`" in card
    assert str(run.parent) not in card and str(ROOT) not in card
    croissant = json.loads(hub.content(REPO, "croissant.json"))
    assert {entry["@id"] for entry in croissant["recordSet"]} == set(names)
    safe = next(entry for entry in croissant["recordSet"] if entry["@id"] == "safe")
    assert [field["name"] for field in safe["field"]][:2] == ["safe/id", "safe/text"]


def test_croissant_readers_accept_the_file(published, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    path = tmp_path / "croissant.json"
    path.write_bytes(published[1].content(REPO, "croissant.json"))
    data = mlcroissant.Dataset(jsonld=str(path))
    assert not data.metadata.ctx.issues.errors
    turns = next(field for field in data.metadata.record_sets[3].fields if field.name == "refusal/turns")
    assert [field.name for field in turns.sub_fields] == ["refusal/turns/role", "refusal/turns/text"]


def test_a_dry_run_touches_no_network_and_lists_what_a_real_one_sends(published, tmp_path):
    run, hub, _ = published
    asked = len(hub.requests)
    # no token, and an endpoint where nobody listens
    dry = publish(None, tmp_path / "home", run, "--repo", REPO, "--dry-run", "--files-per-commit", "4", token=None)
    listed = dict(re.findall(r"^  (\S+)  [\d,]+ bytes  sha256 ([0-9a-f]{64})$", dry, re.M))
    assert len(hub.requests) == asked and "safe: " in dry
    sent = hub.files(REPO)
    del sent[".gitattributes"]
    # the Croissant file names the Hub's address
    assert listed.keys() == sent.keys() and {path for path in sent if listed[path] != sent[path]} <= {"croissant.json"}
    commits = [re.findall(r"^  (\S+)  ", part, re.M) for part in re.split(r"^commit \d+: .*$", dry, flags=re.M)[1:]]
    assert max(map(len, commits)) == 4 and commits[-1][-1] == "README.md", "the card comes last"
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*token*"))


def test_the_token_is_in_nothing_that_was_written(published):
    run, hub, output = published
    for secret in (TOKEN, SIGNATURE):
        assert secret not in output
        for path in written_files(run, run.parent / "home"):
            assert secret.encode() not in path.read_bytes(), path
        for content in (*hub.objects.values(), *hub.blobs.values()):
            assert secret.encode() not in content


def test_a_second_publication_mends_what_was_changed_and_sends_no_byte_again(published):
    run, hub, _ = published
    repo, puts = hub.repos[REPO], sum(hub.puts.values())
    wanted, tree = dict(repo.tree), dict(repo.tree)
    left_over = tree.pop("safe/00000.parquet")
    repo.commit({**tree, "safe/00009.parquet": left_over, "notes.txt": hub.add_blob(b"by hand")})
    publish(hub, run.parent / "home", run, "--repo", REPO)
    assert repo.tree.pop("notes.txt"), "what is not ours stays"
    assert repo.tree == wanted and sum(hub.puts.values()) == puts


def test_unsafe_originals_need_the_option_and_a_gate(run, hub, tmp_path):
    hub.ungateable = True
    refused = publish(hub, tmp_path / "home", run, "--repo", REPO, "--include-unsafe", expect=1)
    assert "is not gated: unsafe texts are sent to gated repositories only" in refused
    assert not hub.puts and len(hub.repos[REPO].commits) == 1, "not a byte was sent"
    hub.ungateable = False
    publish(hub, tmp_path / "home", run, "--repo", REPO, "--include-unsafe", "--public")
    repo = hub.repos[REPO]
    assert repo.gated == "manual" and not repo.private
    tagged = read_back(hub, tmp_path / "stranger", "tagged", "train")
    never = {row["id"] for row in rows(run, "scores/final") if row["never_train"]}
    assert [row["id"] for row in tagged] == [row["id"] for row in rows(run, "tagged")] and tagged[0]["slots"]
    assert not never & {row["id"] for row in tagged}


def test_wrong_arguments_exit_with_2(run, tmp_path):
    for arguments, message in [
        ([run, "--repo", "corpus"], "write it as ORG/NAME"),
        ([run, "--repo", "a/b/c"], "--repo a/b/c"),
        ([tmp_path, "--repo", REPO], "neither a run (no recipe.yaml) nor a model (no config.json)"),
    ]:
        result = CliRunner().invoke(app, ["publish", *map(str, arguments), "--dry-run"])
        assert isinstance(result.exception, RecipeError) and message in str(result.exception)
        assert result.exception.exit_code == 2
