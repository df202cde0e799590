"""Runs the stage `refuse` with files of at most so many bytes: `python -m tests.pipeline.write_with_full_disk FOLDER URL BYTES WHEN`.

WHEN: "asking", or "writing" (from the first row of the output on). The kernel refuses what is longer (EFBIG).
"""

import resource
import sys
from pathlib import Path

from classifiers.errors import SafetroveError
from pipeline.stages import synthesis
from tests.pipeline.stage_runs import run_stage
from tests.pipeline.writing_stage import stage_of


def limit_files(size: int) -> None:
    """From now on no file of this process may grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class LimitedAtFirstRow(synthesis.RowOrQuarantine):
    """The row, and at the first one the limit."""

    def __call__(self, document):
        limit_files(int(sys.argv[3]))
        return super().__call__(document)


if __name__ == "__main__":
    if sys.argv[4] == "asking":
        limit_files(int(sys.argv[3]))
    else:
        synthesis.RowOrQuarantine = LimitedAtFirstRow
    try:
        run_stage(stage_of(Path(sys.argv[1]), {"url": sys.argv[2]}))
    except (SafetroveError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
