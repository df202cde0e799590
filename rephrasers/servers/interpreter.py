"""The python of another environment that a server lives in: vLLM and SGLang pin their torch and transformers."""

import shutil
from pathlib import Path

from classifiers.errors import DependencyError


def find_python(named: str, where: str) -> str:
    """The program that a path or name means. where: what named it, for the error. Raises DependencyError for none."""
    found = shutil.which(str(Path(named).expanduser()))
    if found is None:
        raise DependencyError(
            f"{where} names {named!r}, which is no program on this machine: give the path of a python"
        )
    return found
