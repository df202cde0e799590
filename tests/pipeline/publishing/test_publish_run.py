"""A run on the Hub: what arrives, what never leaves, breaks of every kind, and nothing secret in anything written."""

import hashlib
import io
import json
import re
import shutil
import signal
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
from tests.pipeline.publishing.hub_server import SIGNATURE, TOKEN, Fault, Repo, hub_server

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


def test_a_second_publication_sends_nothing_and_mends_what_was_changed(run, hub, tmp_path):
    publish(hub, tmp_path / "home", run, "--repo", REPO)
    commits, puts = len(hub.repos[REPO].commits), sum(hub.puts.values())
    publish(hub, tmp_path / "home", run, "--repo", REPO)
    assert len(hub.repos[REPO].commits) == commits and sum(hub.puts.values()) == puts
    repo = hub.repos[REPO]
    tree = dict(repo.tree)
    left_over = tree["safe/00000.parquet"]
    del tree["safe/00000.parquet"]
    repo.commit({**tree, "safe/00009.parquet": left_over, "notes.txt": hub.add_blob(b"by hand")})
    publish(hub, tmp_path / "home", run, "--repo", REPO)
    assert "safe/00009.parquet" not in repo.tree and "safe/00000.parquet" in repo.tree
    assert "notes.txt" in repo.tree, "what is not ours stays"
    assert sum(hub.puts.values()) == puts, "its bytes were there already"


def test_a_dry_run_touches_no_network_and_lists_what_a_real_one_sends(run, hub, tmp_path):
    # no token, and an endpoint where nobody listens
    dry = publish(None, tmp_path / "home", run, "--repo", REPO, "--dry-run", "--files-per-commit", "4", token=None)
    listed = dict(re.findall(r"^  (\S+)  [\d,]+ bytes  sha256 ([0-9a-f]{64})$", dry, re.M))
    assert not hub.requests and "commit 3: " in dry and "safe: " in dry
    publish(hub, tmp_path / "home", run, "--repo", REPO, "--files-per-commit", "4")
    sent = hub.files(REPO)
    sent.pop(".gitattributes")
    # the cards name the Hub's address
    differing = {path for path in sent if listed.get(path) != sent[path]}
    assert listed.keys() == sent.keys() and differing <= {"croissant.json"}
    assert len(hub.repos[REPO].commits) == 1 + dry.count("\ncommit ")
    last = set(sent) - set(hub.repos[REPO].commits[-2][1])
    assert "README.md" in last, "the card comes last"


def test_killed_half_way_and_started_again(run, hub, tmp_path):
    puts = 3
    arguments = [run, "--repo", REPO, "--files-per-commit", "2"]
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
    before = hub.puts.copy()
    assert "README.md" not in hub.repos[REPO].tree and sum(before.values()) >= puts
    publish(hub, tmp_path / "home", *arguments)
    assert set(hub.puts.values()) == {1}, "nothing was sent twice"
    assert set(hub.committed.values()) == {1}
    staged = run / "publish" / "files"
    sent = hub.files(REPO)
    del sent[".gitattributes"]
    assert sent == {path: hashlib.sha256((staged / path).read_bytes()).hexdigest() for path in sent}
    assert {
        config["config_name"]
        for config in yaml.safe_load(hub.content(REPO, "README.md").decode().split("---\n")[1])["configs"]
    } >= set(TEXTS)


def test_faults_of_the_hub_on_every_kind_of_request(run, hub, tmp_path):
    def somebody_else_commits():
        repo = hub.repos[REPO]
        repo.commit({**repo.tree, "notes.txt": hub.add_blob(b"in between")})

    hub.faults += [
        Fault("GET", "^/api/datasets/team/corpus$", 503),
        Fault("POST", "^/api/repos/create", 429),
        Fault("POST", "preupload", "reset"),
        Fault("POST", "lfs/objects/batch", 503),
        Fault("PUT", "^/lfs/", "reset", times=2),
        Fault("POST", "/lfs/verify/", 500),
        Fault("POST", "/commit/", "reset", after=True),
        Fault("POST", "/commit/", 429, headers={"RateLimit": '"api";r=0;t=0'}),
        Fault("POST", "/commit/", somebody_else_commits),
        Fault("GET", "/tree/", 503),
    ]
    output = publish(hub, tmp_path / "home", run, "--repo", REPO, "--files-per-commit", "5")
    assert all(fault.times == 0 for fault in hub.faults)
    assert set(hub.puts.values()) == {1} and set(hub.committed.values()) == {1}
    assert {"notes.txt", "README.md"} <= hub.repos[REPO].tree.keys(), "somebody else's commit is kept"
    assert "not taken, trying again" in output
    assert SIGNATURE not in output and TOKEN not in output


def test_the_token_is_in_nothing_that_is_written(published, tmp_path):
    run, hub, output = published
    home = run.parent / "home"
    hub.faults.append(Fault("POST", "preupload", 403))
    failed = publish(hub, home, run, "--repo", "team/other", expect=1)
    assert "injected 403" in failed
    for secret in (TOKEN, SIGNATURE):
        assert secret not in output and secret not in failed
        for path in written_files(run, home):
            assert secret.encode() not in path.read_bytes(), path
        for content in (*hub.objects.values(), *hub.blobs.values()):
            assert secret.encode() not in content


def test_a_login_of_huggingface_hub_will_do(run, hub, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert "no token for the Hub: set HF_TOKEN" in publish(hub, home, run, "--repo", REPO, token=None, expect=1)
    assert not hub.requests
    (home / "token").write_text(TOKEN)
    publish(hub, home, run, "--repo", REPO, token=None)
    assert "README.md" in hub.repos[REPO].tree


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
    refused = publish(hub, tmp_path / "home", run, "--repo", REPO, "--public", expect=1)
    assert "holds unsafe texts (tagged/), and its history would keep them" in refused


def test_a_public_repository_needs_the_option(run, hub, tmp_path):
    hub.repos[REPO] = Repo(private=False)
    hub.repos[REPO].commit({})
    assert "is public: give --public" in publish(hub, tmp_path / "home", run, "--repo", REPO, expect=1)


def test_a_file_that_the_hub_lost_is_found(run, hub, tmp_path):
    def lose():
        for oid in list(hub.objects):
            hub.objects[oid] = b"PAR1"

    hub.faults.append(Fault("POST", "/commit/", lose))
    failed = publish(hub, tmp_path / "home", run, "--repo", REPO, expect=1)
    assert "not what was sent" in failed and "safe/00000.parquet" in failed
    assert not (run / "publish" / "published.json").exists()


def test_wrong_arguments_exit_with_2(run, tmp_path):
    for arguments, message in [
        ([run, "--repo", "corpus"], "write it as ORG/NAME"),
        ([run, "--repo", "a/b/c"], "--repo a/b/c"),
        ([tmp_path, "--repo", REPO], "neither a run (no recipe.yaml) nor a model (no config.json)"),
    ]:
        result = CliRunner().invoke(app, ["publish", *map(str, arguments), "--dry-run"])
        assert isinstance(result.exception, RecipeError) and message in str(result.exception)
        assert result.exception.exit_code == 2
