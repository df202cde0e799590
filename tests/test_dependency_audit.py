"""`make audit`: a hole fails, packages that were not looked up are named. Reports as pip-audit 2.10 writes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[1] / ".ci" / "audit.py"
CLEAN = {"name": "good", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "odd", "skip_reason": "Dependency not found on PyPI and could not be audited: odd (2.0)"}
HOLE = {"id": "PYSEC-2020-1", "fix_versions": ["3.1"], "aliases": [], "description": "..."}


def audit(folder, printed):
    (folder / "pip_audit.py").write_text(f"print({printed!r})")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, env=environment)


def test_nothing_found(tmp_path):
    done = audit(tmp_path, json.dumps({"dependencies": [CLEAN, UNKNOWN], "fixes": []}))
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "1 of 2 packages were looked up, 0 holes found",
            "not looked up (the index has no advisories for them): odd",
        ],
    )


@pytest.mark.parametrize(("fixed", "text"), [(["3.1"], "3.1"), ([], "no version yet")])
def test_a_hole_fails(tmp_path, fixed, text):
    bad = {"name": "bad", "version": "3.0", "vulns": [HOLE | {"fix_versions": fixed}]}
    done = audit(tmp_path, json.dumps({"dependencies": [CLEAN, bad], "fixes": []}))
    assert done.returncode == 1
    assert done.stdout.startswith(
        f"bad 3.0: PYSEC-2020-1, mended in {text}\n2 of 2 packages were looked up, 1 holes found"
    )


def test_no_report_fails(tmp_path):
    done = audit(tmp_path, "the network is away")
    assert done.returncode == 1 and "gave no report" in done.stderr
