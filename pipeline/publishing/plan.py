"""What a publication consists of, and how its files are cut into commits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.size_text import size_text

RepoType = Literal["dataset", "model"]
SAFE, TAGGED = "safe", "tagged"  # configurations of originals: of score 0, and unsafe ones with their tags' slots
# The Hub asks for at most 10,000 files a folder and advises at most 100,000 a repository.
MOST_FILES_A_FOLDER = 5_000
ADVISED_FILES = 100_000


@dataclass(frozen=True)
class OutgoingFile:
    """One file: where it goes in the repository, where it lies, and what must arrive."""

    path: str
    local: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CommitBounds:
    """The most that one commit takes. The Hub allows 128 commits an hour and repository, and slow commits time out."""

    files: int = 500
    bytes: int = 20 << 30


@dataclass(frozen=True)
class ConfigRows:
    """What `datasets.load_dataset(repository, name, split=split)` must give."""

    name: str
    split: str
    rows: int
    files: int
    bytes: int


@dataclass
class Publication:
    """All that goes out. The card (README.md) is the last of `files`: what is half there has no configurations."""

    repo: str
    repo_type: RepoType
    files: list[OutgoingFile] = field(default_factory=list)
    configs: list[ConfigRows] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # any one of them stops it
    owned: frozenset[str] = frozenset()  # top folders whose other files in the repository are left-overs and go


def cut_into_commits(files: Iterable[OutgoingFile], bounds: CommitBounds) -> list[list[OutgoingFile]]:
    """The files in their order, as many a commit as the bounds allow; one larger than the bound goes alone."""
    commits: list[list[OutgoingFile]] = []
    size = 0
    for file in files:
        if not commits or len(commits[-1]) >= bounds.files or size + file.bytes > bounds.bytes:
            commits.append([])
            size = 0
        commits[-1].append(file)
        size += file.bytes
    return commits


def shard_path(config: str, shard: int, shards: int) -> str:
    """Where a shard's file lies in the repository: one folder a configuration, more levels where it would overflow."""
    if shards <= MOST_FILES_A_FOLDER:
        return f"{config}/{shard:05d}.parquet"
    return f"{config}/{shard // 1000:05d}/{shard:05d}.parquet"


def shard_pattern(config: str, shards: int) -> str:
    """The glob that finds the files of `shard_path`, for the card's metadata."""
    return f"{config}/*.parquet" if shards <= MOST_FILES_A_FOLDER else f"{config}/*/*.parquet"


def describe(publication: Publication, bounds: CommitBounds) -> list[str]:
    """What would be sent, in words: commits with their files and sizes, configurations, notes and refusals."""
    commits = cut_into_commits(publication.files, bounds)
    lines = [
        f"{publication.repo_type} {publication.repo}: {len(publication.files):,} files, "
        f"{size_text(sum(file.bytes for file in publication.files))}, {len(commits):,} commits"
    ]
    lines += [f"  {config.name}: {config.rows:,} rows in {config.files:,} files" for config in publication.configs]
    for number, files in enumerate(commits, 1):
        lines.append(f"commit {number}: {_commit_text(files)}")
        lines += [f"  {file.path}  {file.bytes:,} bytes  sha256 {file.sha256}" for file in files]
    if len(publication.files) > ADVISED_FILES:
        lines.append(f"note: the Hub advises at most {ADVISED_FILES:,} files a repository; use larger shards")
    return lines + [f"refused: {refusal}" for refusal in publication.refusals]


def _commit_text(files: Sequence[OutgoingFile]) -> str:
    return f"{len(files):,} files, {size_text(sum(file.bytes for file in files))}"
