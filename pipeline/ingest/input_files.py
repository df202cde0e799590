"""The input files of a run: one file is one shard. The list is frozen at the first run, so that shard numbers stay."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath

import fsspec

from classifiers.chunks import encodable
from classifiers.errors import DataError, RecipeError
from pipeline.atomic_files import write_json
from pipeline.recipe import Recipe, Source
from pipeline.run_folder import RunFolder

_HUB_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl"}
_COMPRESSIONS = {".gz", ".zst", ".bz2", ".xz"}


@dataclass(frozen=True)
class InputFile:
    """One raw file. `name` is stable (relative to its source); `uri` is a local path or an fsspec address;
    `pin` is the remote store's own version mark, None for local files, which are hashed instead."""

    source: str
    format: str
    name: str
    uri: str
    pin: str | None = None


def input_files(recipe: Recipe, run: RunFolder) -> list[InputFile]:
    """The frozen list of the run, or what the recipe finds now. Raises DataError where the two differ."""
    frozen = frozen_input_files(run)
    if frozen is None:
        return list_input_files(recipe)
    found = list_input_files(recipe, frozen)
    gone = sorted({f.uri for f in frozen} - {f.uri for f in found})
    new = sorted({f.uri for f in found} - {f.uri for f in frozen})
    if gone or new:
        lines = [f"    gone: {uri}" for uri in gone[:10]] + [f"    new:  {uri}" for uri in new[:10]]
        raise DataError(
            f"{run.root}: the input files are not those of the first run:\n" + "\n".join(lines) + "\n"
            "Put them back, or take a new --output folder."
        )
    pins = {file.uri: file.pin for file in found}
    return [replace(file, pin=pins[file.uri]) for file in frozen]  # a remote file may hold something else by now


def frozen_input_files(run: RunFolder) -> list[InputFile] | None:
    """The list that the first run wrote down, without a look at the sources; None before it."""
    path = run.root / "inputs.json"
    if not path.is_file():
        return None
    return [InputFile(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def freeze_input_files(files: list[InputFile], run: RunFolder) -> None:
    """Write the list into the run folder: at the first run, and where remote files have other versions by now."""
    if frozen_input_files(run) != files:
        write_json(run.root / "inputs.json", [asdict(f) for f in files])


def list_input_files(recipe: Recipe, frozen: Sequence[InputFile] = ()) -> list[InputFile]:
    """All files of all sources, sorted within each source; of the Hub's those that are `frozen` already, which are pinned to
    a commit: it need not be asked again.

    Raises RecipeError where a source has none, or one whose name is not UTF-8.
    """
    files: list[InputFile] = []
    for position, source in enumerate(recipe.sources):
        pinned = [file for file in frozen if file.source == source.name] if source.format == "hub" else []
        found = pinned or (_hub_files(source) if source.format == "hub" else _plain_files(source))
        odd = next((file.uri for file in found if encodable(file.uri) != file.uri), None)
        if odd is not None:
            raise RecipeError(
                f"sources.{position}.path: {odd!a}: the file's name is not UTF-8, and the run's records could not hold "
                "it; rename the file"
            )
        if not found:
            raise RecipeError(
                f"sources.{position}.path: {source.path}: no files there; give a file, a folder or a glob"
            )
        files += found
    return files


def _plain_files(source: Source) -> list[InputFile]:
    if "://" in source.path:
        return _remote_files(source)
    path = Path(source.path)
    if path.is_file():
        base, found = path.parent, [path]
    elif path.is_dir():
        base, found = path, sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    else:
        base = Path(*_before_wildcards(path.parts))
        found = sorted(p for p in base.glob(str(path.relative_to(base))) if p.is_file()) if base.is_dir() else []
    return [InputFile(source.name, source.format, p.relative_to(base).as_posix(), str(p)) for p in found]


def _before_wildcards(parts: tuple[str, ...]) -> list[str]:
    """The folders that lead to a glob's first wildcard; of a path without one, all but its last part."""
    return list(takewhile(lambda part: not set("*?[") & set(part), parts[:-1]))


def _remote_files(source: Source) -> list[InputFile]:
    """The same rules for an address of fsspec; its files are pinned to what the store says of their version."""
    filesystem, path = fsspec.core.url_to_fs(source.path)
    base = PurePosixPath(*_before_wildcards(PurePosixPath(path).parts))
    if filesystem.isfile(path):
        found = [path]
    elif any(c in path for c in "*?["):
        found = [p for p in sorted(filesystem.glob(path)) if filesystem.isfile(p)]
    elif filesystem.isdir(path):
        base = PurePosixPath(path)
        found = [p for p in sorted(filesystem.find(path)) if not PurePosixPath(p).name.startswith(".")]
    else:
        found = []
    return [
        InputFile(
            source.name,
            source.format,
            PurePosixPath(p).relative_to(base).as_posix(),
            filesystem.unstrip_protocol(p),
            filesystem.ukey(p),
        )
        for p in found
    ]


def _hub_files(source: Source) -> list[InputFile]:
    """Files of one split, as the `datasets` library resolves them: pinned to the commit that it found."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(source.path, source.config, revision=source.revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"source {source.name}: data set {source.path} cannot be resolved: {error}") from error
    splits = builder.config.data_files or {}
    if source.split not in splits:
        raise RecipeError(f"source {source.name}: {source.path} has no split {source.split!r}, only {sorted(splits)}")
    files = []
    uris = sorted(map(str, splits[source.split]))
    for uri, name in zip(uris, _hub_names(uris), strict=True):
        suffixes = [s for s in PurePosixPath(uri).suffixes if s not in _COMPRESSIONS]
        kind = _HUB_FORMATS.get(suffixes[-1] if suffixes else "")
        if kind is None:
            raise RecipeError(f"source {source.name}: {uri}: only Parquet and JSON lines are read from the Hub")
        remote = "://" in uri
        files.append(InputFile(source.name, kind, name, uri, uri if remote else None))
    return files


def _hub_names(uris: list[str]) -> list[str]:
    """The files' own names; where several have the same one, their paths inside the repository, which differ."""
    names = [PurePosixPath(uri).name for uri in uris]
    count = Counter(names)
    return [name if count[name] == 1 else _path_in_repository(uri, uris) for name, uri in zip(names, uris, strict=True)]


def _path_in_repository(uri: str, uris: list[str]) -> str:
    """The path behind ORG/NAME@COMMIT/; of local files, below the folder that holds all of `uris`."""
    if "://" in uri:
        return uri.partition("@")[2].partition("/")[2] or uri
    return PurePosixPath(uri).relative_to(os.path.commonpath(uris)).as_posix()
