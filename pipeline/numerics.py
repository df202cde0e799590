"""Provenance of an output: the numerics class of the machine, within which bytes are equal, and the code's commit."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

_LIBRARIES = (
    "datatrove",
    "trafilatura",
    "pyarrow",
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "fasttext-numpy2-wheel",
)


@functools.cache
def numerics_class() -> dict[str, str]:
    """Processor and library versions, as strings. Read from package metadata: nothing heavy is imported."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def code_commit() -> str | None:
    """The commit of the checkout that runs, or None outside a git checkout. Provenance only: never part of an identity."""
    home = Path(__file__).resolve().parent.parent
    try:
        found = subprocess.run(["git", "-C", home, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
