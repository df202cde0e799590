"""These tests need a Slurm of their own: `make test-slurm` starts one (with_slurm.sh) and stops it afterwards."""

import os

import pytest


@pytest.fixture(autouse=True)
def real_slurm() -> None:
    if not os.environ.get("SAFETROVE_SLURM"):
        pytest.skip("no Slurm of one's own is running: make test-slurm")
