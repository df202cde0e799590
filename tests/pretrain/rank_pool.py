"""Runs a function on several gloo ranks. A fork server that has imported torch starts them in a fraction of a second."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import tempfile
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "pretrain.training"])


class RankError(Exception):
    """A rank ended with another exit code than 0."""


def run_ranks(count, function, *arguments):
    """What `function(*arguments)` returned on each rank. `RankError` as soon as one rank fails; the others are killed."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            _SERVER.Process(target=_run, args=(rank, count, Path(folder), function, arguments)) for rank in range(count)
        ]
        for rank in ranks:
            rank.start()
        waiting = {rank.sentinel: rank for rank in ranks}
        while waiting:
            for sentinel in multiprocessing.connection.wait(list(waiting)):
                rank = waiting.pop(sentinel)
                rank.join()
                if rank.exitcode:
                    for other in waiting.values():
                        other.kill()
                        other.join()
                    raise RankError(f"exit code {rank.exitcode}")
        return [pickle.loads((Path(folder) / f"result{rank}").read_bytes()) for rank in range(count)]


def _run(rank, count, folder, function, arguments):
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    result = function(*arguments)
    (folder / f"result{rank}").write_bytes(pickle.dumps(result))
    distributed.barrier()
    distributed.destroy_process_group()
