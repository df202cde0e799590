"""Holes of the installed datatrove that we guard against. A test that fails here says that upstream mended one."""

import inspect
import json
from pathlib import Path

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.inference.run_inference import InferenceRunner
from datatrove.pipeline.inference.servers import vllm_server


class Emit(PipelineStep):
    """Two documents a rank; raises on one rank if told to."""

    def __init__(self, number: int, folder: str, raise_on: int = -1):
        super().__init__()
        self.number, self.folder, self.raise_on = number, folder, raise_on

    def run(self, data=None, rank=0, world_size=1):
        if rank == self.raise_on:
            raise RuntimeError("this rank is broken")
        Path(self.folder, f"{rank}.txt").write_text(str(self.number))
        self.stat_update("documents", value=2)
        yield Document(text="x", id=str(rank))


def executor(folder, number, tasks=2, **options):
    step = Emit(number, str(folder), **options)
    return LocalPipelineExecutor([step], tasks=tasks, workers=1, logging_dir=str(folder / "logs"))


def test_hole_2_a_resume_under_another_setting_is_accepted(tmp_path):
    executor(tmp_path, 1).run()
    (tmp_path / "logs" / "completions" / "00001").unlink()
    executor(tmp_path, 2).run()
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["1", "2"]  # mixed outputs, no word said


def test_hole_3_statistics_after_a_resume_count_the_second_run_alone(tmp_path):
    executor(tmp_path, 1).run()
    (tmp_path / "logs" / "completions" / "00001").unlink()
    executor(tmp_path, 1).run()
    total = json.loads((tmp_path / "logs" / "stats.json").read_text())[0]["stats"]["documents"]
    assert (total["total"] if isinstance(total, dict) else total) == 2  # four documents were made


def test_hole_4_the_inference_runner_swallows_writer_errors():
    source = inspect.getsource(InferenceRunner._save_document)
    assert "except Exception" in source and "raise" not in source.split("except Exception")[1]


def test_hole_7_its_vllm_server_always_trusts_remote_code():
    assert "--trust-remote-code" in inspect.getsource(vllm_server)
