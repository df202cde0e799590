"""One repository on the Hub, through huggingface_hub: its visibility and gate, its tree, and commits that go on."""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from classifiers.errors import RecipeError
from pipeline.publishing.errors import PublishError
from pipeline.publishing.patience import MOST_TRIES, hub_errors, patiently, understand, wait_before
from pipeline.publishing.plan import TAGGED, CommitBounds, OutgoingFile, Publication, cut_into_commits
from pipeline.size_text import size_text

_GATES = ("auto", "manual")
Report = Callable[[str], None]


def check_name(repo: str) -> None:
    """Raises RecipeError where `repo` is no ORG/NAME that the Hub takes."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise RecipeError(f"--repo {repo}: {error}") from error
    if "/" not in repo:
        raise RecipeError(f"--repo {repo}: write it as ORG/NAME")


class Repository:
    """The repository that a publication goes to. The token is huggingface_hub's (HF_TOKEN or its login) and stays there."""

    def __init__(self, publication: Publication, report: Report, wait: Callable[[float], None] = time.sleep):
        from huggingface_hub import HfApi, get_token

        if get_token() is None:
            raise PublishError("no token for the Hub: set HF_TOKEN, or log in with `hf auth login`")
        self.publication, self.report, self.wait = publication, report, wait
        self.api = HfApi(library_name="safetrove")
        self._where: dict[str, Any] = {"repo_id": publication.repo, "repo_type": publication.repo_type}

    def prepare(self, include_unsafe: bool, public: bool) -> None:
        """Makes the repository, private, or checks the one that is there; with `include_unsafe` it is gated afterwards.

        Raises PublishError where it is public and `public` is not asked for, where its gate cannot be closed, or where it
        holds unsafe texts and `include_unsafe` is not asked for.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> Any:
            try:
                return self.api.repo_info(**self._where)
            except RepositoryNotFoundError:
                return None

        info = patiently(look, f"looking for {self.publication.repo}", self.wait)
        if info is None:
            patiently(
                lambda: self.api.create_repo(**self._where, private=True, exist_ok=True),
                f"making {self.publication.repo}",
                self.wait,
            )
            self.report(f"made the private {self.publication.repo_type} repository {self.publication.repo}")
            info = self._info()  # as the Hub has it: somebody else may have made it in between, in public
        if not info.private and not public:
            raise PublishError(
                f"{self.publication.repo} is public: give --public, or make it private, or give another --repo"
            )
        if include_unsafe:
            self.close_gate()
        elif any(path.startswith(f"{TAGGED}/") for path in self.tree(self.head())):
            raise PublishError(
                f"{self.publication.repo} holds unsafe texts ({TAGGED}/), and its history would keep them: give "
                "--include-unsafe again, or another --repo"
            )

    def close_gate(self) -> None:
        """Makes readers ask for access, and checks that the Hub says so: nothing unsafe is sent before."""
        name = self.publication.repo
        if self._info().gated not in _GATES:
            patiently(lambda: self.api.update_repo_settings(**self._where, gated="manual"), f"gating {name}", self.wait)
        self.check_gate()

    def check_gate(self) -> None:
        """Raises PublishError where the repository is not gated."""
        if self._info().gated not in _GATES:
            raise PublishError(
                f"{self.publication.repo} is not gated: unsafe texts are sent to gated repositories only"
            )

    def make_public(self) -> None:
        """The last step, once everything has arrived and can be read."""
        if self._info().private:
            name = self.publication.repo
            patiently(
                lambda: self.api.update_repo_settings(**self._where, private=False), f"making {name} public", self.wait
            )

    def head(self) -> str:
        """The newest commit."""
        return str(self._info().sha)

    def tree(self, commit: str) -> dict[str, Any]:
        """Path -> huggingface_hub's RepoFile of every file of a commit."""

        def ask() -> dict[str, Any]:
            entries = self.api.list_repo_tree(**self._where, recursive=True, revision=commit)
            return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}

        return patiently(ask, f"listing {self.publication.repo}", self.wait)

    def send(self, bounds: CommitBounds) -> str:
        """Sends what is not there yet with the same hash, and removes left-overs with the last commit; returns the newest.

        After a failure that may pass, the repository is listed again: a commit whose answer was lost is not made twice, and
        what somebody else committed in between is seen. Raises PublishError where it does not go on.
        """
        head, here, done = self._look()
        tries = sent = 0
        while True:
            rest = cut_into_commits((file for file in self.publication.files if file.path not in done), bounds)
            gone = self._left_overs(here) if len(rest) <= 1 else []
            if not rest and not gone:
                return head
            batch = rest[0] if rest else []
            size = size_text(sum(file.bytes for file in batch))
            self.report(f"commit {sent + 1} of {sent + max(1, len(rest))}: {len(batch):,} files, {size}")
            try:
                head = self._commit(batch, gone, head)
            except hub_errors() as error:
                failure = understand(error)
                tries += 1
                if not failure.passes or tries == MOST_TRIES:
                    raise PublishError(
                        f"{self.publication.repo}: {failure.text}\nWhat was committed stays; the same command goes on from "
                        "there. Where commits time out, give fewer files: --files-per-commit"
                    ) from None
                self.report(f"not taken, trying again: {failure.text.splitlines()[0]}")
                self.wait(wait_before(failure, tries))
                arrived = len(done)
                head, here, done = self._look()
                tries = tries if len(done) <= arrived else 0  # it went on all the same
                continue
            tries, sent = 0, sent + 1
            done |= {file.path for file in batch}
            here = here - set(gone)

    def _look(self) -> tuple[str, set[str], set[str]]:
        """(newest commit, paths in it, those of our files that are in it with our bytes)."""
        head = self.head()
        tree = self.tree(head)
        files = self.publication.files
        return head, set(tree), {file.path for file in files if has_arrived(file, tree.get(file.path))}

    def _left_overs(self, here: set[str]) -> list[str]:
        wanted = {file.path for file in self.publication.files}
        return [path for path in sorted(here) if path.split("/")[0] in self.publication.owned and path not in wanted]

    def _commit(self, files: Sequence[OutgoingFile], gone: Sequence[str], parent: str) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[Any] = [CommitOperationAdd(file.path, file.local) for file in files]
        operations += [CommitOperationDelete(path) for path in gone]
        commit = self.api.create_commit(
            **self._where,
            operations=operations,
            commit_message=f"{len(files)} files" + (f", {len(gone)} removed" if gone else ""),
            parent_commit=parent,
        )
        return str(commit.oid)

    def _info(self) -> Any:
        return patiently(lambda: self.api.repo_info(**self._where), f"asking about {self.publication.repo}", self.wait)


def has_arrived(file: OutgoingFile, there: Any | None) -> bool:
    """Whether the repository's file has our bytes: sha256 of a large file, git's hash of a small one."""
    if there is None or there.size != file.bytes:
        return False
    return there.lfs.sha256 == file.sha256 if there.lfs is not None else there.blob_id == _git_sha1(file)


def _git_sha1(file: OutgoingFile) -> str:
    content = file.local.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
