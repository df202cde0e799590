"""After the upload: every hash is in the repository's tree, and `datasets.load_dataset` reads every configuration back."""

import tempfile
from pathlib import Path
from typing import Any

from pipeline.publishing.errors import PublishError
from pipeline.publishing.patience import hub_errors, without_secrets
from pipeline.publishing.plan import ConfigRows, Publication
from pipeline.publishing.repository import Repository, has_arrived
from pipeline.size_text import size_text

# Larger configurations are resolved file by file and read at their beginning: their hashes say the rest.
READ_WHOLE_BYTES = 2 << 30


def check_hashes(repository: Repository, commit: str) -> None:
    """Raises PublishError naming files that are not in the commit with the bytes that were sent, or left over there."""
    publication, tree = repository.publication, repository.tree(commit)
    wrong = [file.path for file in publication.files if not has_arrived(file, tree.get(file.path))]
    wanted = {file.path for file in publication.files}
    wrong += [path for path in tree if path.split("/")[0] in publication.owned and path not in wanted]
    if wrong:
        shown = ", ".join(sorted(wrong)[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise PublishError(
            f"{publication.repo} at {commit}: not what was sent: {shown}. Run the same command again; it sends what is missing"
        )


def read_back(publication: Publication, commit: str) -> list[str]:
    """One line for each configuration on how it was read. Raises PublishError where rows or files are not those sent.

    Reads into a temporary folder: no cache may stand in for the Hub.
    """
    from datasets.exceptions import DatasetsError

    # datasets lets errors of its own and of pyarrow (ValueError) through; all say that it cannot be read
    unreadable = (*hub_errors(), DatasetsError, KeyError, TypeError)
    lines = []
    for config in publication.configs:
        with tempfile.TemporaryDirectory(prefix="safetrove-read-back-") as folder:
            try:
                lines.append(_read(publication.repo, config, commit, Path(folder)))
            except unreadable as error:
                raise PublishError(
                    f"{publication.repo}: load_dataset does not read {config.name!r} back: "
                    f"{without_secrets(f'{type(error).__name__}: {error}')}"
                ) from None
    return lines


def _read(repo: str, config: ConfigRows, commit: str, folder: Path) -> str:
    from datasets import DownloadConfig, DownloadMode, load_dataset, load_dataset_builder

    cache = {"cache_dir": str(folder), "download_config": DownloadConfig(cache_dir=folder / "downloads")}
    builder = load_dataset_builder(repo, config.name, revision=commit, **cache)
    found = len(builder.config.data_files[config.split])
    if found != config.files:
        raise PublishError(f"{repo}: configuration {config.name!r} finds {found} files, {config.files} were sent")
    options: dict[str, Any] = {"split": config.split, "revision": commit, **cache}
    if config.bytes > READ_WHOLE_BYTES:
        first = next(iter(load_dataset(repo, config.name, streaming=True, **options)))
        return f"{config.name}: {found:,} files, of {size_text(config.bytes)}; first row read ({len(first)} columns)"
    data = load_dataset(repo, config.name, download_mode=DownloadMode.FORCE_REDOWNLOAD, **options)
    if len(data) != config.rows:
        raise PublishError(f"{repo}: configuration {config.name!r} has {len(data)} rows, {config.rows} were sent")
    return f"{config.name}: {len(data):,} rows read back"
