"""Which model a name in a recipe means: the embedded writer, a folder, or a model on the Hub at a revision."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers.errors import ModelError
from rephrasers.embedded_writer import (
    CONVERSION_VERSION,
    EMBEDDED_DESCRIPTION,
    EMBEDDED_NAME,
    GGUF_SHA256,
    embedded_writer_folder,
)

# Weights larger than this are read in part: hashing all of a large model would take minutes.
WHOLE_BYTES, BLOCKS, BLOCK_BYTES = 64 << 20, 256, 4096


@dataclass(frozen=True)
class ModelReference:
    """A model as servers take it.

    path_or_id: a folder, or a Hub id without revision. revision: what identifies the weights (see `resolve_model`).
    description: for the lineage and the report card.
    """

    path_or_id: str
    revision: str
    description: str

    @property
    def is_local(self) -> bool:
        """True where the model is a folder on this machine, so that no hub needs to be asked."""
        return Path(self.path_or_id).is_dir()

    def load(self, auto_class: Any) -> Any:
        """What `auto_class.from_pretrained` makes of the model at its revision. Raises ModelError where it cannot."""
        from classifiers.loading import from_pretrained

        return from_pretrained(
            auto_class, self.path_or_id, self.is_local, revision=None if self.is_local else self.revision
        )


def resolve_model(name: str, only_tokenizer: bool = False) -> ModelReference:
    """The model behind a recipe's name. Downloads nothing; the embedded writer is converted at its first use.

    "embedded:SmolLM2-135M-Instruct": revision is the sha256 of the GGUF file and the converter's version.
    An existing folder: revision is a hash over its files' names and contents; of files above 64 MiB, over their size and 256
    blocks spread over them, which training changes all over.
    "org/name" or "org/name@revision" on the Hub: revision as given, else the commit in the Hub cache. Where neither is
    known the weights have no name that would stay theirs: a ModelError, but with `only_tokenizer`, which answers "main".
    Raises ModelError also for a folder that holds no model and for a name that is none of the three.
    """
    if name == EMBEDDED_NAME:
        revision = f"{GGUF_SHA256[:16]}-v{CONVERSION_VERSION}"
        return ModelReference(str(embedded_writer_folder()), revision, EMBEDDED_DESCRIPTION)
    if name.startswith("embedded:"):
        raise ModelError(f"unknown embedded writer {name!r}; there is one: {EMBEDDED_NAME!r}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inside = folder / "model"
            hint = f"; its model is in {inside}: give that" if (inside / "config.json").is_file() else ""
            raise ModelError(f"{folder} is not a model folder: it has no config.json{hint}")
        return ModelReference(str(folder), _folder_revision(folder), folder.name)
    repository, _, revision = name.partition("@")
    if name.startswith((".", "/", "~")) or repository.count("/") != 1 or repository.endswith("/"):
        raise ModelError(
            f"model {name!r} is neither an existing folder, nor a Hub id (org/name or org/name@revision), "
            f"nor {EMBEDDED_NAME!r}"
        )
    revision = revision or _cached_commit(repository) or ("main" if only_tokenizer else "")
    if not revision:
        raise ModelError(
            f"model {name}: it is not in the Hub cache of this machine, so that nobody knows which weights it will be. "
            f"Download it first (hf download {repository}), or pin it: {repository}@COMMIT"
        )
    return ModelReference(repository, revision, f"{repository}@{revision}")


def _folder_revision(folder: Path) -> str:
    """16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        _add_content(digest, path)
    return f"folder-{digest.hexdigest()[:16]}"


def _add_content(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES or path.suffix in (".json", ".jinja"):
            while block := file.read(1 << 20):
                digest.update(block)
            return
        for number in range(BLOCKS):  # the first and the last byte are in
            file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))


def _cached_commit(repository: str) -> str | None:
    """The commit that the Hub cache of this machine holds as `main`, or None."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    return Path(config).parent.name if isinstance(config, str) else None
