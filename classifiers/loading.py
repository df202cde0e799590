"""Loads models: a local path first, then the cache, then the Hub; from safetensors only; code from the Hub never by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classifiers.errors import ModelError


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Torch on this number of threads: the order of float additions depends on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_missing_folder(name: str) -> bool:
    """Whether the name of a model is a path, and nothing is there: a name on the Hub begins otherwise."""
    return name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir()


def from_pretrained(
    auto_class: Any, source: str, local: bool, remote_code_revision: str | None = None, revision: str | None = None
) -> Any:
    """What `auto_class.from_pretrained` makes of the source. Raises ModelError where it cannot.

    `remote_code_revision`: the commit at which the model's own code was read and is allowed to run; None runs none.
    `revision`: commit, branch or tag of a model on the Hub; None: its main branch.
    """
    allowed = remote_code_revision is not None
    settings: dict[str, Any] = {"trust_remote_code": allowed, "revision": revision}
    if allowed:
        settings |= {"revision": remote_code_revision, "code_revision": remote_code_revision}
    if "Tokenizer" not in auto_class.__name__:
        settings["use_safetensors"] = True  # no pickle
    try:
        return auto_class.from_pretrained(source, local_files_only=True, **settings)
    except (OSError, ValueError) as error:
        if local:
            raise ModelError(f"{source}: not a folder that transformers can load from safetensors ({error})") from error
    try:
        return auto_class.from_pretrained(source, **settings)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: neither a folder, nor in the Hub cache, nor reachable on the Hub, with safetensors ({error}); "
            "give a local folder, or the embedded encoder"
        ) from error
