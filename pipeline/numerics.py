"""The numerics class of a machine: outputs are byte-identical within one class (design, section 3, rule 2)."""

import functools
import importlib.metadata
import platform
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


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
