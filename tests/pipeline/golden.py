"""What each stage with machine-independent output makes of fixed small inputs: the values in golden.json."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

from warcio.warcwriter import WARCWriter

from pipeline.ingest.input_files import InputFile
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from pipeline.stages.dedup import DedupFindStage, DocumentsStage, document_table
from pipeline.stages.ingest import IngestStage, ingested_table
from pipeline.stages.score import FinalScoreStage, score_table
from pipeline.stages.tag import TagStage, tagged_table
from pipeline.stages.tokenise import TokeniserStage, TokeniseStage, token_prefix
from pretrain.indexed_dataset import IndexedDataset
from tests.pipeline.stage_runs import rows_sha256, run_stage, small_recipe, value_sha256, write_documents, write_scores
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer

GOLDEN = Path(__file__).with_name("golden.json")
FERRY = "The ferry to the island leaves at nine and at noon, and the crossing takes about forty minutes."
DOUGH = "Knead the dough for ten minutes, then let it rise in a warm place until it has doubled.\r\nBake it  \r\nwell."
# Never distributed, made up: a pattern that never_train must find by its shape.
LOGINS = "\n".join(f"user{n}@mail.example:Passw0rd{n}x" for n in range(12))
TEXTS = [
    FERRY,
    DOUGH,
    f"Spelt out: <potentially_unsafe_content> and {END} are not tokens here. {FERRY}",
    LOGINS,
    "我们走。今天 ok",
]


def golden_values(folder: Path) -> dict[str, dict[str, Any]]:
    """Stage name -> its version and the hash of its logical output. Works in `folder`, which must be empty."""
    values: dict[str, dict[str, Any]] = {}

    def note(stage: Stage, sha256: str) -> None:
        values[stage.name] = {"version": stage.version, "sha256": sha256}

    _ingest_values(folder / "ingest", note)
    _score_values(folder / "score", note)
    return values


def _ingest_values(folder: Path, note: Any) -> None:
    recipe, run = small_recipe(folder, ingest={"dedup_buckets": 2}), RunFolder(folder / "run")
    (folder / "in").mkdir(parents=True)
    lines = [{"id": str(n), "text": text, "url": f"http://e.example/{n}"} for n, text in enumerate([FERRY, DOUGH])]
    lines += [{"id": "short", "text": "short"}, {"id": "again", "text": FERRY}, {"id": "no text"}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "in" / "a.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
    (folder / "in" / "b.warc.gz").write_bytes(_warc())
    files = [
        InputFile("texts", kind, name, str(folder / "in" / name))
        for kind, name in (("jsonl", "a.jsonl.gz"), ("warc", "b.warc.gz"))
    ]
    ingest, find = IngestStage(recipe, run, files), DedupFindStage(recipe, run, 2)
    documents = DocumentsStage(recipe, run, 2)
    rows = [run_stage(ingest, shard).rows.to_json() for shard in (0, 1)]
    # the language's probability is a float of a model: its last bits belong to the machine
    note(ingest, value_sha256([rows, *(_without_probability(ingested_table(run, shard)) for shard in (0, 1))]))
    for bucket in (0, 1):
        run_stage(find, bucket)
    rows = [run_stage(documents, shard).rows.to_json() for shard in (0, 1)]
    note(documents, value_sha256([rows, *(_without_probability(document_table(run, shard)) for shard in (0, 1))]))


def _without_probability(table: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(table).drop_columns(["language_probability"]).to_pylist()


def _warc() -> bytes:
    """Three records: a page, a page that repeats a text of the other file, an error page."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for number, (status, text) in enumerate((("200 OK", FERRY[::-1]), ("200 OK", FERRY), ("404 Not Found", DOUGH))):
        content = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}".encode()
        headers = {"WARC-Date": "2024-01-01T00:00:00Z", "WARC-Record-ID": f"<urn:uuid:{number:032d}>"}
        record = writer.create_warc_record(
            f"http://e.example/{number}", "response", payload=io.BytesIO(content), warc_headers_dict=headers
        )
        writer.write_record(record)
    return buffer.getvalue()


def _score_values(folder: Path, note: Any) -> None:
    tokenizer = save_tiny_tokenizer(folder / "tokenizer", "bpe")
    recipe = small_recipe(
        folder, tag={"rate": 0.3}, tokenise={"tokenizer": str(tokenizer), "end_of_document": END}, seed=3
    )
    run = RunFolder(folder / "run")
    ids = write_documents(run, TEXTS)
    write_scores(run, "fasttext", ids, [0, 2, 1, 4, None])
    write_scores(run, "embedding", ids, [0, 1, 3, 5, None])
    final, tag = FinalScoreStage(recipe, run, 1), TagStage(recipe, run, 1)
    run_stage(final)
    note(final, rows_sha256(score_table(run, "final", 0)))
    run_stage(tag)
    note(tag, rows_sha256(tagged_table(run, 0)))
    run_stage(TokeniserStage(recipe, run))
    for source in ("safe", "tagged"):
        stage = TokeniseStage(source, recipe, run, 1)
        run_stage(stage)
        dataset = IndexedDataset(token_prefix(run, source, 0))
        levels = token_prefix(run, source, 0).with_suffix(".levels").read_bytes()
        note(stage, value_sha256([[dataset[n].tolist() for n in range(len(dataset))], list(levels)]))
