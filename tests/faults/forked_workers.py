"""Workers forked from the test's own process, where every library is loaded already: a disturbed run costs milliseconds.

The pool, its pipes and the ties between parent and child are the product's own; what is left out is the fork server in
between, which tests/end_to_end/test_same_bytes.py kills through the command line.
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from pipeline.executors import fork_server


@contextmanager
def forked_workers() -> Iterator[None]:
    """Inside, `run_local` forks its workers from this process."""
    context = multiprocessing.get_context("fork")
    with (
        patch.object(multiprocessing, "get_context", lambda _: context),
        patch.object(fork_server, "FORK_SERVER_PID", os.getpid()),
    ):
        yield
