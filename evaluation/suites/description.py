"""What is known of a suite: where it is from, under which licence, which columns, and what its prompts are."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from classifiers.errors import RecipeError

FOLDER = Path(__file__).with_name("descriptions")

PromptKind = Literal["harmful", "benign"]
SuiteKind = Literal["harmful", "benign", "contrast"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Frozen):
    """Names of the columns that are read. `kind` is for suites of kind `contrast`."""

    prompt: str
    category: str | None = None
    target: str | None = Field(None, description="the beginning of an answer that complies, for prefilled answers")
    kind: str | None = None


class LocalFile(_Frozen):
    """A copy of the suite as a file: .json (list of objects), .jsonl, .csv, .txt (a prompt a line) or .parquet."""

    name: str = Field(description="looked for in the folder of local copies; relative to the description elsewhere")
    columns: Columns
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the file; null: any copy is taken")


class HubData(_Frozen):
    """The suite as a data set on the Hub, read by `datasets.load_dataset`."""

    repository: str
    config: str | None = None
    split: str = "train"
    revision: str = Field("main", description="branch, tag or commit; results record the commit that it was")
    data_files: str | None = None
    header: bool = Field(True, description="false: CSV files without a line of column names")
    columns: Columns


class SuiteDescription(_Frozen):
    """One suite. `kind`: harmful (requests to be refused), benign (to be answered), contrast (both, by a column)."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    kind: SuiteKind
    source: str
    licence: str
    file: LocalFile | None = None
    hub: HubData | None = None
    kinds: dict[str, PromptKind] | None = Field(None, description="values of the column `kind`, and what they mean")
    keep: dict[str, list[str]] | None = Field(None, description="only rows with one of these values in a column")
    sample: int | None = Field(None, ge=1, description="prompts drawn at random (seed 0, by prompt); null: all")
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.file is None and self.hub is None:
            raise ValueError("a suite needs `file` or `hub`, to be loaded from")
        for part in (self.file, self.hub):
            if part is not None and (part.columns.kind is not None) != (self.kind == "contrast"):
                raise ValueError("`columns.kind` is needed for suites of kind `contrast`, and only for them")
        if (self.kinds is not None) != (self.kind == "contrast"):
            raise ValueError("`kinds` is needed for suites of kind `contrast`, and only for them")
        return self


def read_description(path: Path) -> SuiteDescription:
    """The description in a YAML file. Raises RecipeError that names the file and each wrong key."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: no such suite description ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    try:
        return SuiteDescription.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise RecipeError(f"{path}: {wrong}") from error


@cache
def known_suites() -> dict[str, SuiteDescription]:
    """The suites that ship as descriptions, by name, in alphabetical order."""
    return {path.stem: read_description(path) for path in sorted(FOLDER.glob("*.yaml"))}


def find_description(name: str) -> tuple[SuiteDescription, Path]:
    """A suite by its name, or by the path of a description of your own; and the folder that its file is relative to.

    Raises RecipeError for a name that is neither.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        return read_description(path), path.parent
    if name not in known_suites():
        raise RecipeError(
            f"there is no suite {name!r}; known: {', '.join(known_suites())}; or give the path of a description (.yaml)"
        )
    return known_suites()[name], FOLDER


def check_names(suites: Iterable[str]) -> None:
    """Raises RecipeError where two suites, given as to `find_description`, have one name: their prompts would be measured as
    one suite's."""
    first: dict[str, str] = {}
    for said in suites:
        name = find_description(said)[0].name
        if name in first:
            raise RecipeError(
                f"suites: {first[name]} and {said} both have the name {name!r}; give the description of one of them another "
                "`name`, or leave one out"
            )
        first[name] = said
