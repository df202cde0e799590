"""Kept embeddings: another head scores the corpus without the encoder, and gives what a fresh run gives."""

import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from warcio.warcwriter import WARCWriter

from classifiers.embedding import SHIPPED_HEAD
from classifiers.encoder import Encoder, embedded_encoder_folder
from classifiers.weights_file import save_weights
from tests.end_to_end.runs import safetrove, sample_texts, write_recipe

STAGES = ("ingest", "dedup-find", "documents", "embed", "score-embedding")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a WARC of eight pages, a copy of the encoder, and two heads for it."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "in").mkdir()
    with (folder / "in" / "a.warc.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for row in sample_texts()[:8]:
            paragraphs = "".join(f"<p>{line}</p>" for line in str(row["text"]).splitlines() if line)
            page = f"<html><body><article>{paragraphs}</article></body></html>".encode()
            payload = io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page)
            writer.write_record(writer.create_warc_record(str(row["url"]), "response", payload=payload))
    shutil.copytree(embedded_encoder_folder(), folder / "encoder")
    facts = {"encoder": "copy", "encoder_sha256": Encoder(str(folder / "encoder")).weights_sha256}
    head = load_file(SHIPPED_HEAD)
    save_weights(head, folder / "first.safetensors", facts)
    head["level.bias"] = head["level.bias"][::-1].copy()
    save_weights(head, folder / "second.safetensors", facts)
    return folder


def run(corpus, output, head, keep, expect=0):
    """A run whose head is `head.safetensors` in its own folder; returns the finished process."""
    output.mkdir(exist_ok=True)
    shutil.copy(corpus / f"{head}.safetensors", output / "head.safetensors")
    source = {"name": "pages", "format": "warc", "path": str(corpus / "in"), "licence": "CC0-1.0"}
    embedding = {
        "encoder": str(corpus / "encoder"),
        "head": str(output / "head.safetensors"),
        "keep_embeddings": keep,
    }
    score = {"classifiers": ["embedding"], "embedding": embedding}
    recipe = write_recipe(output / "recipe.yaml", corpus / "in", sources=[source], score=score)
    stages = [item for name in STAGES if keep or name != "embed" for item in ("--stage", name)]
    return safetrove("run", recipe, "--output", output / "run", *stages, expect=expect)


def rows(output):
    return pq.read_table(output / "run" / "scores" / "embedding" / "00000.parquet").to_pylist()


def test_a_new_head_scores_kept_embeddings_without_the_encoder(corpus, tmp_path):
    run(corpus, tmp_path / "kept", "first", keep=True)
    run(corpus, tmp_path / "direct", "first", keep=False)
    run(corpus, tmp_path / "fresh", "second", keep=True)
    first, fresh = rows(tmp_path / "kept"), rows(tmp_path / "fresh")
    assert len(first) == 8 and first == rows(tmp_path / "direct")
    assert [row["probabilities"] for row in first] != [row["probabilities"] for row in fresh]

    (embeddings,) = (tmp_path / "kept" / "run" / "embeddings").rglob("*.parquet")
    before = embeddings.read_bytes()
    for row, score in zip(pq.read_table(embeddings).to_pylist(), first, strict=True):
        vectors = np.frombuffer(row["vectors"], dtype="<f2").reshape(row["n_chunks"], 384).astype(np.float32)
        assert row["id"] == score["id"] and row["n_chunks"] == score["n_chunks"]
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)

    weights = corpus / "encoder" / "model.safetensors"
    weights.rename(corpus / "away")  # from here on the encoder cannot be loaded
    try:
        refused = run(corpus, tmp_path / "kept", "second", keep=True, expect=1)
        assert "settings.head" in refused.stderr and "embed 00000" not in refused.stderr
        safetrove("rerun", tmp_path / "kept" / "run", "--stage", "score-embedding", "--rank", "0")
    finally:
        (corpus / "away").rename(weights)
    assert rows(tmp_path / "kept") == fresh
    assert embeddings.read_bytes() == before
    status = json.loads(safetrove("status", tmp_path / "kept" / "run", "--json", expect=1).stdout)
    done = {stage["stage"]: stage["shards"]["done"] for stage in status["stages"]}
    assert done["embed"] == done["score-embedding"] == 1


def test_a_head_of_another_encoder_is_refused(corpus, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    head = load_file(corpus / "first.safetensors")
    save_weights(head, other / "third.safetensors", {"encoder": "another", "encoder_sha256": "0" * 64})
    for name in ("in", "encoder"):
        (other / name).symlink_to(corpus / name)
    process = run(other, tmp_path / "run", "third", keep=True, expect=1)
    assert "was trained on another encoder" in process.stdout + process.stderr
