"""Reads a suite's prompts from a local copy or from the Hub, and checks that they are what its description says."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.errors import DataError
from evaluation.suites.description import Columns, HubData, PromptKind, SuiteDescription, find_description
from rephrasers.keyed_draws import keyed_uniforms

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt. `id` is a hash of its text, so that the same prompt has the same id from every copy of the suite."""

    id: str
    text: str
    kind: PromptKind
    category: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Suite:
    """A suite's prompts in their order. `origin`: where they were read from. `sha256`: of the prompts and their kinds."""

    description: SuiteDescription
    prompts: tuple[SuitePrompt, ...]
    origin: str
    sha256: str

    @property
    def name(self) -> str:
        """The name in results."""
        return self.description.name


def load_suite(name: str, folder: Path | None = None, limit: int | None = None) -> Suite:
    """A known suite, or that of a description file (`name` ends in .yaml). `limit`: only the first so many prompts.

    Looks for the file in `folder` (local copies), then beside the description, then asks the Hub.
    Raises RecipeError for an unknown name; DataError for a missing file, another file than described, wrong columns,
    no prompts.
    """
    description, home = find_description(name)
    rows, columns, origin = _read(description, folder, home)
    if not rows:
        raise DataError(f"suite {description.name}: {origin} is empty: it holds no rows at all")
    prompts = _prompts(description, rows, columns, origin)
    if description.sample is not None and description.sample < len(prompts):
        draws = [float(keyed_uniforms(0, "suite", prompt.id, 1)[0]) for prompt in prompts]
        chosen = sorted(np.argsort(draws, kind="stable")[: description.sample].tolist())
        prompts = [prompts[index] for index in chosen]
    prompts = prompts[:limit]
    if not prompts:
        raise DataError(f"suite {description.name}: {origin} holds no prompt that can be asked (all are empty)")
    content = json.dumps([[prompt.text, prompt.kind] for prompt in prompts], ensure_ascii=False)
    return Suite(description, tuple(prompts), origin, hashlib.sha256(content.encode()).hexdigest())


def _read(description: SuiteDescription, folder: Path | None, home: Path) -> tuple[list[Row], Columns, str]:
    if description.file is not None:
        for place in ([folder] if folder is not None else []) + [home]:
            path = place / description.file.name
            if path.is_file():
                _check_file(path, description)
                return read_rows(path), description.file.columns, path.name
    if description.hub is None:
        assert description.file is not None  # one of the two: SuiteDescription
        raise DataError(f"suite {description.name}: no {description.file.name} in {folder or home}; put the file there")
    rows, commit = _read_hub(description, description.hub, folder)
    return rows, description.hub.columns, f"{description.hub.repository}@{commit}"


def _check_file(path: Path, description: SuiteDescription) -> None:
    assert description.file is not None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if description.file.sha256 not in (None, found):
        raise DataError(
            f"suite {description.name}: {path} has sha256 {found}, expected {description.file.sha256}: another version. "
            "Take the right file, or copy the description and set its sha256 (null takes any file)"
        )


def read_rows(path: Path) -> list[Row]:
    """The rows of a .json, .jsonl, .csv, .txt or .parquet file. Raises DataError that names the file and the line."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq
        from pyarrow.lib import ArrowException

        try:
            rows: list[Row] = pq.read_table(path).to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
        return rows
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    if path.suffix == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            return list(table)
        except csv.Error as error:
            raise DataError(f"{path}, line {table.reader.line_num}: not CSV ({error})") from None
    if path.suffix == ".txt":
        return [{"prompt": line.rstrip("\r\n")} for line in io.StringIO(text) if line.strip()]
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{path}: a suite's file is .json, .jsonl, .csv, .txt or .parquet")
    parts = [(1, text)] if path.suffix == ".json" else list(enumerate(io.StringIO(text), 1))
    found: list[Any] = []
    for number, part in parts:
        try:
            found += [json.loads(part)] if part.strip() else []
        except (ValueError, RecursionError) as error:  # also an integer of more digits than Python reads
            raise DataError(f"{path}, line {number}: not JSON ({getattr(error, 'msg', error)})") from None
    rows = found[0] if path.suffix == ".json" and found else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of objects, one a prompt")
    return rows


def _read_hub(description: SuiteDescription, hub: HubData, folder: Path | None) -> tuple[list[Row], str]:
    """(rows, commit). One request to the Hub, or its cache."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    options: dict[str, Any] = {} if hub.data_files is None else {"data_files": hub.data_files}
    options |= {} if hub.header else {"header": None, "names": ["prompt"]}
    try:
        commit = HfApi().dataset_info(hub.repository, revision=hub.revision).sha or hub.revision
        table = load_dataset(hub.repository, hub.config, split=hub.split, revision=commit, **options)
    except Exception as error:  # whatever the Hub client and its back ends raise: connection, access, missing split
        where = "" if description.file is None else f", nor is {description.file.name} in {folder or 'a suite folder'}"
        raise DataError(
            f"suite {description.name}: {hub.repository} cannot be read from the Hub ({type(error).__name__}){where}. "
            "Accept its terms and log in (`hf auth login`), or give a folder with a local copy"
        ) from error
    return list(table), commit


def _prompts(description: SuiteDescription, rows: Iterable[Row], columns: Columns, origin: str) -> list[SuitePrompt]:
    prompts: list[SuitePrompt] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        named = [name for name in (columns.prompt, columns.category, columns.target, columns.kind) if name]
        missing = [name for name in [*named, *(description.keep or {})] if name not in row]
        if missing:
            raise DataError(
                f"suite {description.name}: {origin}, row {number} has no column {missing[0]!r}; it has "
                f"{', '.join(map(repr, row))}. Correct `columns` in a description of your own"
            )
        if any(str(row[column]) not in values for column, values in (description.keep or {}).items()):
            continue
        text = str(row[columns.prompt] or "").strip()
        if not text:
            continue
        _check_characters(description, row, named, origin, number)
        identifier = hashlib.sha256(text.encode()).hexdigest()[:16]
        seen[identifier] = seen.get(identifier, 0) + 1
        prompts.append(
            SuitePrompt(
                id=identifier if seen[identifier] == 1 else f"{identifier}-{seen[identifier]}",
                text=text,
                kind=_kind(description, row, columns, origin, number),
                category=_optional(row, columns.category),
                target=_optional(row, columns.target),
            )
        )
    return prompts


def _check_characters(description: SuiteDescription, row: Row, named: Iterable[str], origin: str, number: int) -> None:
    """Raises DataError for half a surrogate pair, which JSON can spell and no text can hold."""
    for column in named:
        if any("\ud800" <= character <= "\udfff" for character in str(row[column] or "")):
            raise DataError(
                f"suite {description.name}: {origin}, row {number}: {column!r} holds half a character (a lone surrogate, "
                "such as \\ud83d in JSON), which is no text: write the whole character, or leave it out"
            )


def _kind(description: SuiteDescription, row: Row, columns: Columns, origin: str, number: int) -> PromptKind:
    if description.kind != "contrast":
        return description.kind
    assert description.kinds is not None and columns.kind is not None  # SuiteDescription
    value = str(row[columns.kind])
    if value not in description.kinds:
        raise DataError(
            f"suite {description.name}: {origin}, row {number}: {columns.kind!r} is {value!r}, "
            f"which `kinds` does not explain (it has {', '.join(description.kinds)})"
        )
    return description.kinds[value]


def _optional(row: Row, column: str | None) -> str | None:
    return None if column is None or not row[column] else str(row[column])
