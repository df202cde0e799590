"""Undisturbed runs to compare with, once a process; workers forked from this process."""

import os

import pytest

from pipeline.run_folder import RunFolder
from tests.faults.campaign import Undisturbed, undisturbed_run
from tests.faults.forked_workers import forked_workers
from tests.faults.small_run import answer, small_recipe, write_inputs
from tests.pipeline.writer_stub import writer


@pytest.fixture(scope="session")
def warm():
    """Everything that workers import, and the classifiers, are loaded before the first fork; one thread each."""
    import torch

    import pipeline.report.figure  # noqa: F401
    import rephrasers.answer_runner  # noqa: F401
    from pipeline.stages.score import _embedding, _fasttext

    threads, parallelism = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _fasttext(None, False)
    _embedding("embedded:all-MiniLM-L6-v2", None, 1, "float32")
    with forked_workers():
        yield
    torch.set_num_threads(threads)
    os.environ.pop("TOKENIZERS_PARALLELISM") if parallelism is None else os.environ.update(
        TOKENIZERS_PARALLELISM=parallelism
    )


@pytest.fixture(scope="session")
def small_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_inputs(folder / "in")
    return folder


@pytest.fixture(scope="session")
def without_writer(warm, small_inputs) -> Undisturbed:
    """No language model: fastText and the encoder."""
    return undisturbed_run(small_recipe(small_inputs), RunFolder(small_inputs / "undisturbed"))


@pytest.fixture(scope="session")
def with_writer(warm, small_inputs):
    """fastText, and the stages that ask the writer stub."""
    with writer(answer) as (url, _):
        yield undisturbed_run(small_recipe(small_inputs, url), RunFolder(small_inputs / "undisturbed-writer"))
