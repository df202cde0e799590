"""`publish`: make or check the repository, send, check that everything arrived and can be read, then make it public."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.atomic_files import write_json
from pipeline.publishing.arrival import check_hashes, read_back
from pipeline.publishing.errors import PublishError
from pipeline.publishing.model_folder import model_publication
from pipeline.publishing.plan import CommitBounds, Publication, describe
from pipeline.publishing.repository import Report, Repository, check_name
from pipeline.run_folder import RunFolder


@dataclass(frozen=True)
class PublishOptions:
    """What the user asks for."""

    dry_run: bool = False
    include_unsafe: bool = False
    public: bool = False
    bounds: CommitBounds = field(default_factory=CommitBounds)


def publish_run(run: RunFolder, repo: str, options: PublishOptions, report: Report) -> bool:
    """Publishes a finished run as a data set. Returns whether it may go out; raises PublishError where it does not arrive.

    Records what went where in RUN/publish/published.json.
    """
    from pipeline.publishing.corpus import run_publication  # every stage comes with it; a model needs none

    check_name(repo)
    address = _address("dataset", repo)
    publication = run_publication(run, repo, address, options.include_unsafe)
    commit = _publish(publication, options, report)
    if commit is not None:
        rows = {config.name: config.rows for config in publication.configs}
        value = {"repository": address, "commit": commit, "files": len(publication.files), "rows": rows}
        write_json(run.root / "publish" / "published.json", value)
    return not publication.refusals


def publish_model(
    folder: Path, repo: str, guard: Callable[[Path], None], options: PublishOptions, report: Report
) -> bool:
    """Publishes a model folder with its card; `guard` as in `model_publication`. Returns whether it may go out."""
    check_name(repo)
    publication = model_publication(folder, repo, guard)
    _publish(publication, options, report)
    return not publication.refusals


def _publish(publication: Publication, options: PublishOptions, report: Report) -> str | None:
    """The commit, or None where nothing was sent (a dry run, or refused in one)."""
    if options.dry_run:
        for line in describe(publication, options.bounds):
            report(line)
        return None
    if publication.refusals:
        raise PublishError("nothing was sent:\n" + "\n".join(f"  {refusal}" for refusal in publication.refusals))
    _quiet_hub()
    repository = Repository(publication, report)
    repository.prepare(options.include_unsafe, options.public)
    commit = repository.send(options.bounds)
    check_hashes(repository, commit)
    report(f"{len(publication.files):,} files are there with the hashes that were sent")
    for line in read_back(publication, commit):
        report(line)
    if options.include_unsafe:
        repository.check_gate()
    if options.public:
        repository.make_public()
    report(f"{_address(publication.repo_type, publication.repo)} at {commit}")
    return commit


def _address(repo_type: str, repo: str) -> str:
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/datasets/{repo}" if repo_type == "dataset" else f"{ENDPOINT}/{repo}"


def _quiet_hub() -> None:
    """huggingface_hub warns about each retry with the whole address, which may be presigned; our own lines say enough."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    disable_progress_bars()
