"""Paths that tests share. Data that is not part of the project is used where it lies beside it, skipped where not."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pages and labelled texts, beside the checkout; the test is skipped where it is absent."""
    for folder in (ROOT.parent / "shared" / "data", ROOT.parent.parent / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("the shared data folder is not beside this checkout")
