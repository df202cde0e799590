"""Which shards of which stages are done, stale, pending, failed or refused: read from manifests alone."""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from classifiers.errors import DataError, IdentityError, SafetroveError
from pipeline.atomic_files import file_sha256
from pipeline.manifest import Manifest, identity_difference, output_state
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage

DONE, STALE, PENDING, FAILED = "done", "stale", "pending", "failed"


@dataclass
class StageState:
    """The states of one stage's shards, and the manifests of those that have one."""

    stage: Stage
    states: list[str] = field(default_factory=list)
    manifests: dict[int, Manifest] = field(default_factory=dict)

    def shards(self, *states: str) -> list[int]:
        """Shards that are in one of `states`."""
        return [shard for shard, state in enumerate(self.states) if state in states]


@dataclass
class _Look:
    """One look at a run: how strict it is, what it found done, and what it has to refuse.

    `read_only` looks change nothing, and ask for no file outside of the run: where raw inputs or weights are gone, what was
    made from them is compared as far as that goes without them.
    """

    run: RunFolder
    force_stale: bool = False
    read_only: bool = False
    accept_forced: bool = False
    finished: dict[tuple[str, int], Manifest] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _identities: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def difference(self, stage: Stage, shard: int, manifest: Manifest) -> dict[str, tuple[Any, Any]]:
        """In what the shard's identity differs from what it would get now, its inputs within the run aside."""
        found, now = manifest.identity, self._identity(stage)
        raw = raw_identity(stage, shard, manifest)
        if self.read_only:
            raw = {name: found["raw_inputs"].get(name) if mark is None else mark for name, mark in raw.items()}
        fixed = {"version": stage.version, "raw_inputs": raw}
        if now is not None:
            fixed["settings"] = now["settings"]
        if all(found[key] == value for key, value in fixed.items()):
            return {}
        return identity_difference({key: found[key] for key in fixed}, fixed)

    def _identity(self, stage: Stage) -> dict[str, Any] | None:
        """The stage's identity; None where a read-only look cannot know it, because its weights are gone."""
        if not self.read_only:
            return stage.identity
        if stage.name not in self._identities:
            try:
                self._identities[stage.name] = stage.identity
            except (SafetroveError, FileNotFoundError):
                self._identities[stage.name] = None
        return self._identities[stage.name]


def read_manifest(run: RunFolder, stage: str, shard: int) -> Manifest | None:
    """The manifest of a finished shard, or None."""
    return _manifest_if_there(run.manifest(stage, shard))


def _manifest_if_there(path: Path | str) -> Manifest | None:
    """None where there is none, also where its shard is begun anew between a look at the folder and this."""
    try:
        return Manifest.read(path)
    except FileNotFoundError:
        return None


def wanted_identity(stage: Stage, shard: int, manifests: dict[tuple[str, int], Manifest]) -> dict[str, Any] | None:
    """The identity a shard would get now; None while one of its inputs is not finished."""
    inputs = _wanted_inputs(stage, shard, manifests)
    return None if inputs is None else {**stage.identity, "inputs": inputs}


def _wanted_inputs(stage: Stage, shard: int, manifests: dict[tuple[str, int], Manifest]) -> dict[str, str] | None:
    read: list[Manifest] = []
    for reference in stage.inputs(shard):
        manifest = manifests.get(reference)
        if manifest is None:
            return None
        read.append(manifest)
    if stage.reads_manifests:
        return _told_by(read)
    return {
        name: output.sha256
        for manifest in read
        for name, output in manifest.outputs.items()
        if not name.startswith("quarantine/")
    }


def _told_by(manifests: Sequence[Manifest]) -> dict[str, str]:
    """One hash a stage over what its manifests say of the corpus; times, and how often a server was asked, say nothing of it."""
    digests: dict[str, Any] = {}
    for manifest in manifests:
        digest = digests.setdefault(f"manifests/{manifest.stage}", hashlib.sha256())
        rows, metrics = manifest.rows, manifest.metrics
        if "requests" in metrics:
            metrics = {name: value for name, value in metrics.items() if name != "requests"}
        outputs = sorted([(name, output.sha256) for name, output in manifest.outputs.items()])
        told = [
            manifest.shard,
            manifest.forced_stale,
            rows.rows_in,
            rows.kept,
            rows.dropped,
            rows.quarantined,
            metrics,
            outputs,
        ]
        digest.update(orjson.dumps(told, option=orjson.OPT_SORT_KEYS))
    return {stage: digest.hexdigest() for stage, digest in digests.items()}


def raw_identity(stage: Stage, shard: int, manifest: Manifest) -> dict[str, str | None]:
    """What the raw inputs of a finished shard are now: hashes as recorded where the file is untouched, else new ones."""
    now: dict[str, str | None] = {}
    for name, raw in stage.raw_inputs(shard).items():
        if isinstance(raw, str):
            now[name] = raw
            continue
        recorded = manifest.raw_files.get(name)
        if recorded is None:
            now[name] = file_sha256(raw) if raw.is_file() else None
            continue
        condition = output_state(raw, recorded)
        now[name] = None if condition == "missing" else recorded.sha256 if condition == "ok" else file_sha256(raw)
    return now


def shard_state(run: RunFolder, stage: Stage, shard: int, force_stale: bool = False) -> tuple[str, dict[str, Any]]:
    """The state of one shard, and the identity that it gets now. Reads the manifests of the shard and its inputs alone.

    Raises DataError where an input is not finished or its file is not what its manifest says, IdentityError where the
    shard was finished under other settings.
    """
    inputs: dict[tuple[str, int], Manifest] = {}
    for name, number in stage.inputs(shard):
        manifest = read_manifest(run, name, number)
        broken = manifest and [n for n, o in manifest.outputs.items() if output_state(run.root / n, o) != "ok"]
        if manifest is None or broken:
            raise DataError(
                f"stage {stage.name}, shard {shard}: its input {name} {number:05d} is not finished"
                + (f": {broken[0]} is gone or was changed" if broken else "")
                + f"; redo it with: safetrove rerun {run.root} --stage {name} --failed"
            )
        inputs[name, number] = manifest
    identity = wanted_identity(stage, shard, inputs)
    assert identity is not None
    own = read_manifest(run, stage.name, shard)
    if own is None:
        return PENDING, identity
    look = _Look(run, force_stale, finished=inputs)
    word = _state_of(look, stage, shard, own)
    if look.refused:
        raise IdentityError(f"{run.root}: this shard was finished under another recipe:\n{look.refused[0]}")
    return word, identity


def stage_states(
    run: RunFolder,
    stages: Sequence[Stage],
    force_stale: bool = False,
    read_only: bool = False,
    accept_forced: bool = False,
) -> list[StageState]:
    """The state of every shard of every stage, in order.

    A shard whose inputs within the run have changed (a rerun upstream) is "stale" and will be done again. A shard made
    under other settings, prompts, models, versions or raw inputs raises IdentityError with the difference, unless
    `force_stale`: then it is "done" as it is, and its manifest says so.

    `read_only`, for those who only look: a shard that was kept with `force_stale` before is "done"; raw inputs, weights and
    suites that are no longer there count as unchanged; nothing is written.

    `accept_forced`, for a rerun: a shard that was kept with `force_stale` before is no reason to refuse the others.
    """
    look = _Look(run, force_stale, read_only, accept_forced)
    with _without_garbage_collection():
        result = [_state_of_stage(look, stage) for stage in stages]
    if refused := look.refused:
        shown = "\n".join(refused[:20]) + (f"\n... and {len(refused) - 20} more" if len(refused) > 20 else "")
        raise IdentityError(
            f"{run.root}: finished shards were made under another recipe, prompt, model or input:\n{shown}\n"
            "Nothing was run. Put the old value back, or take a new --output folder, or keep the finished shards as "
            "they are with --force-stale (written into the manifests and the card)."
        )
    return result


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Manifests hold no cycles; the collector would search a million of their values again and again, for half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()  # else the first collection searches them all after all
            gc.enable()


def _state_of_stage(look: _Look, stage: Stage) -> StageState:
    """One look at the stage's folder, then one read a manifest; shards found done are added to `look.finished`."""
    state = StageState(stage)
    with_manifest, with_failure = look.run.finished_and_failed(stage.name)
    folder = look.run.manifest(stage.name, 0).parent.as_posix()
    for shard in range(stage.shards):
        word = FAILED if shard in with_failure else PENDING
        manifest = _manifest_if_there(f"{folder}/{shard:05d}.json") if shard in with_manifest else None
        if manifest is not None:
            word = _state_of(look, stage, shard, manifest)
            state.manifests[shard] = manifest
            if word == DONE:
                look.finished[stage.name, shard] = manifest
        state.states.append(word)
    return state


def _state_of(look: _Look, stage: Stage, shard: int, manifest: Manifest) -> str:
    difference = look.difference(stage, shard, manifest)
    if difference and manifest.forced_stale and (look.read_only or look.accept_forced):
        difference = {}  # it was accepted
    if difference and not look.force_stale:
        lines = [f"    {key}: {old!r} -> {new!r}" for key, (old, new) in difference.items()]
        look.refused.append(f"  {stage.name} {shard:05d}\n" + "\n".join(lines))
        return DONE
    if difference:
        _accept(look, stage, shard, manifest)
    root = look.run.root.as_posix()
    for name, output in manifest.outputs.items():
        condition = output_state(f"{root}/{name}", output)
        if condition == "changed":
            raise DataError(
                f"{look.run.root / name}: was changed after stage {stage.name} wrote it; "
                f"redo it with: safetrove rerun {look.run.root} --stage {stage.name} --rank {shard}"
            )
        if condition == "missing":
            return STALE
    wanted = _wanted_inputs(stage, shard, look.finished)
    if wanted is None:
        return STALE
    if wanted != manifest.identity["inputs"]:
        kept = look.force_stale or (look.read_only and manifest.forced_stale)
        if stage.reads_manifests or not kept:
            return STALE
        _accept(look, stage, shard, manifest)
    return DONE


def _accept(look: _Look, stage: Stage, shard: int, manifest: Manifest) -> None:
    """Write into the manifest that its shard is kept although it was made of something else."""
    if not manifest.forced_stale and not look.read_only:
        manifest.forced_stale = True
        manifest.write(look.run.manifest(stage.name, shard))
