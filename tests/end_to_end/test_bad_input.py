"""Bad input: quarantined or failed alone with a clear message, the ledger true, and the exit code to match."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warcio.warcwriter import WARCWriter

from tests.end_to_end.runs import safetrove, write_recipe

GOOD = "The ferry to the island leaves at nine and at noon, and the crossing takes about forty minutes. "


def ingest(tmp_path, files, expect=0, **source):
    """Run ingest to documents over `files` (name -> bytes); (status as JSON, quarantine entries, completed process)."""
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    value = {"name": "texts", "format": "jsonl", "path": str(tmp_path / "in"), "licence": "CC0-1.0", **source}
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "in", sources=[value])
    stages = ("--stage", "ingest", "--stage", "dedup-find", "--stage", "documents")
    process = safetrove("run", recipe, "--output", tmp_path / "run", *stages, expect=expect)
    status = json.loads(safetrove("status", tmp_path / "run", "--json", expect=1).stdout)
    entries = [json.loads(line) for path in (tmp_path / "run" / "quarantine").rglob("*.jsonl") for line in path.open()]
    assert status["ledger_errors"] == []
    return {stage["stage"]: stage for stage in status["stages"]}, entries, process


def jsonl(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def row(identifier, text=GOOD):
    return {"id": identifier, "text": f"{text}{identifier}"}


def test_bad_rows_are_quarantined_each_with_its_reason(tmp_path):
    content = (
        jsonl(row("a"))
        + b"this is no json\n"
        + b'{"id": "b", "text": "caf\xe9 with a broken byte in it"}\n'
        + b'{"id": "deep", "text": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}\n"
        + jsonl({"id": "c"}, {"id": "d", "text": 5}, ["not", "an", "object"], {"id": "e", "text": ""})
        + jsonl({"id": "f", "text": "x" * 20_000_000}, row("g"))
    )
    stages, entries, _ = ingest(tmp_path, {"one.jsonl": content})
    rows = stages["ingest"]["rows"]
    assert rows["in"] == 10 and rows["kept"] == 2 and rows["dropped"] == {"empty": 1}
    assert rows["quarantined"] == {
        "invalid_json": 2,
        "invalid_utf8": 1,
        "no_text": 2,
        "not_an_object": 1,
        "too_long": 1,
    }
    assert [e["detail"][:7] for e in entries if e["reason"] == "invalid_json"] == ["line 2:", "line 4:"]


def test_two_documents_with_one_id_are_quarantined_with_their_texts(tmp_path):
    content = {
        "one.jsonl": jsonl(row("a"), row("same", "One text. " * 9)),
        "two.jsonl": jsonl(row("same", "Another. " * 9)),
    }
    stages, entries, _ = ingest(tmp_path, content)
    assert stages["documents"]["rows"]["kept"] == 1
    assert stages["documents"]["rows"]["quarantined"] == {"duplicate_id": 2}
    assert {e["text"][:8] for e in entries} == {"One text", "Another."}


def test_warc_records_without_an_id_are_told_apart_by_their_files(tmp_path):
    def warc(text):
        head = "WARC/1.0\r\nWARC-Type: resource\r\nWARC-Target-URI: http://e.example/\r\nContent-Type: text/plain"
        return f"{head}\r\nContent-Length: {len(text)}\r\n\r\n{text}\r\n\r\n".encode()

    content = {"one.warc": warc(GOOD), "two.warc": warc(GOOD[::-1])}
    stages, _, _ = ingest(tmp_path, content, format="warc")
    assert stages["documents"]["rows"]["kept"] == 2 and stages["documents"]["rows"]["quarantined"] == {}
    records = [pq.read_table(path)["record"].to_pylist() for path in sorted((tmp_path / "run" / "documents").iterdir())]
    assert records == [["one.warc:offset:0"], ["two.warc:offset:0"]]


def test_exact_duplicates_are_dropped_over_shards(tmp_path):
    same = {"text": GOOD * 2}
    content = {"one.jsonl": jsonl({"id": "z", **same}), "two.jsonl": jsonl({"id": "a", **same}, row("b"))}
    stages, _, _ = ingest(tmp_path, content)
    assert stages["documents"]["rows"]["dropped"] == {"duplicate": 1} and stages["documents"]["rows"]["kept"] == 2


def test_a_truncated_gzip_keeps_what_can_be_read(tmp_path):
    whole = gzip.compress(
        jsonl(*(row(str(i), GOOD + "".join(map(str, range(i * 97, i * 97 + 300)))) for i in range(200)))
    )
    stages, entries, _ = ingest(tmp_path, {"cut.jsonl.gz": whole[: len(whole) // 2], "ok.jsonl": jsonl(row("x"))})
    rows = stages["ingest"]["rows"]
    assert 20 < rows["kept"] < 200 and rows["quarantined"] == {"truncated": 1}
    assert "cannot be read beyond line" in entries[0]["detail"]


def test_a_broken_warc_costs_its_broken_records(tmp_path):
    buffer, offsets = io.BytesIO(), []
    writer = WARCWriter(buffer, gzip=True)
    for number in range(5):
        offsets.append(buffer.tell())
        page = f"<html><body><article><p>{GOOD * 5}</p><p>Page number {number}.</p></article></body></html>".encode()
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
        writer.write_record(
            writer.create_warc_record(f"http://e.example/{number}", "response", payload=io.BytesIO(http + page))
        )
    content = bytearray(buffer.getvalue())
    content[offsets[1] + 80] ^= 0xFF
    stages, entries, _ = ingest(tmp_path, {"a.warc.gz": bytes(content[:-40])}, format="warc")
    rows = stages["ingest"]["rows"]
    assert rows["in"] == 5 and rows["kept"] == 3
    assert sorted(rows["quarantined"]) == ["corrupt_gzip_member", "truncated"]
    assert all(entry["file"] == "a.warc.gz" for entry in entries)


def test_a_shard_that_cannot_be_read_fails_alone_and_is_redone(tmp_path):
    good = tmp_path / "good.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "text": [GOOD + "a", GOOD + "b"]}), good)
    whole = good.read_bytes()
    files = {"one.parquet": whole, "two.parquet": whole[:-30], "three.parquet": whole}
    stages, _, process = ingest(tmp_path, files, expect=1, format="parquet")
    assert stages["ingest"]["shards"] == {"done": 2, "stale": 0, "pending": 0, "failed": 1}
    assert "two.parquet: cannot be read as Parquet" in process.stdout
    assert f"safetrove rerun {tmp_path / 'run'} --stage ingest --failed" in process.stderr
    assert stages["documents"]["shards"]["done"] == 0
    (tmp_path / "in" / "two.parquet").write_bytes(whole)
    again = safetrove("rerun", tmp_path / "run", "--stage", "ingest", "--failed").stdout
    assert "`safetrove run` with the recipe does the rest" in again
    status = json.loads(safetrove("status", tmp_path / "run", "--json", expect=1).stdout)
    assert {stage["stage"]: stage["shards"]["done"] for stage in status["stages"]}["ingest"] == 3


def test_a_rewritten_input_a_changed_threshold_and_an_edited_output_are_refused(tmp_path):
    ingest(tmp_path, {"one.jsonl": jsonl(row("a"), row("b"))})
    arguments = ("run", tmp_path / "recipe.yaml", "--output", tmp_path / "run", "--stage", "ingest")
    changed = safetrove(*arguments, "--set", "ingest.minimum_characters=90", expect=1)
    assert "ingest.minimum_characters: 40 -> 90" in changed.stderr
    original = (tmp_path / "in" / "one.jsonl").read_bytes()
    (tmp_path / "in" / "one.jsonl").write_bytes(original + jsonl(row("c")))
    refused = safetrove(*arguments, expect=1)
    assert "raw_inputs.texts/one.jsonl" in refused.stderr and "--force-stale" in refused.stderr
    (tmp_path / "in" / "one.jsonl").write_bytes(original)
    assert "nothing was left to do" in safetrove(*arguments).stdout
    safetrove(*arguments, "--set", "execution.workers=1")
    table = tmp_path / "run" / "documents" / "00000.parquet"
    table.write_bytes(table.read_bytes() + b"x")
    assert "was changed after stage documents wrote it" in safetrove(*arguments, expect=1).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nsources: [{name: a, format: tape, path: x}]\n", "sources.0.format"),
        ("name: x\nsources: []\n", "sources"),
        ("name: x\nsauces: 1\nsources: [{name: a, format: warc, path: x}]\n", "sauces"),
        ("name: x\nsources: [{name: a, format: warc, path: nowhere}]\n", "no files there"),
        ("- a\n", "a recipe is a YAML mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_exits_with_2_and_names_the_key(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    assert message in safetrove("run", tmp_path / "r.yaml", "--output", tmp_path / "run", expect=2).stderr


def test_a_wrong_end_token_is_told_before_any_work_and_the_mended_recipe_goes_on(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.jsonl").write_bytes(jsonl(row("a")))

    def run(end, expect):
        value = {"name": "texts", "format": "jsonl", "path": str(tmp_path / "in"), "licence": "CC0-1.0"}
        recipe = write_recipe(
            tmp_path / "recipe.yaml", tmp_path / "in", sources=[value], tokenise={"end_of_document": end}
        )
        stages = ("--stage", "tokenizer", "--stage", "ingest")
        process = safetrove("run", recipe, "--output", tmp_path / "run", *stages, expect=expect)
        return process.stdout + process.stderr

    assert "'<nothing>' is no token" in run("<nothing>", 1)
    assert not [*(tmp_path / "run" / "manifests").rglob("00000.json")]
    run("<|endoftext|>", 0)
    refused = run("<|im_end|>", 1)
    assert "tokenise.end_of_document: '<|endoftext|>' -> '<|im_end|>'" in refused and "--force-stale" in refused


def test_two_commands_on_one_run(tmp_path):
    import fcntl

    ingest(tmp_path, {"one.jsonl": jsonl(row("a"))})
    with (tmp_path / "run" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = safetrove("run", tmp_path / "recipe.yaml", "--output", tmp_path / "run", expect=1)
    assert "is working on this run" in refused.stderr
