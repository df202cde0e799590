"""Which shards of which stages are done, stale, pending, failed or refused: read from manifests alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from classifiers.errors import DataError, IdentityError
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


def read_manifest(run: RunFolder, stage: str, shard: int) -> Manifest | None:
    """The manifest of a finished shard, or None."""
    path = run.manifest(stage, shard)
    return Manifest.read(path) if path.is_file() else None


def wanted_identity(stage: Stage, shard: int, manifests: dict[tuple[str, int], Manifest]) -> dict[str, Any] | None:
    """The identity a shard would get now; None while one of its inputs is not finished."""
    inputs: dict[str, str] = {}
    for reference in stage.inputs(shard):
        manifest = manifests.get(reference)
        if manifest is None:
            return None
        inputs |= {
            name: output.sha256 for name, output in manifest.outputs.items() if not name.startswith("quarantine/")
        }
    return {**stage.identity, "inputs": inputs}


def raw_identity(stage: Stage, shard: int, manifest: Manifest) -> dict[str, str | None]:
    """What the raw inputs of a finished shard are now: hashes as recorded where the file is untouched, else new ones."""
    now: dict[str, str | None] = {}
    for name, raw in stage.raw_inputs(shard).items():
        if isinstance(raw, str):
            now[name] = raw
        elif not raw.is_file():
            now[name] = None
        else:
            recorded = manifest.raw_files.get(name)
            untouched = recorded is not None and output_state(raw, recorded) == "ok"
            now[name] = recorded.sha256 if recorded is not None and untouched else file_sha256(raw)
    return now


def stage_states(
    run: RunFolder, stages: Sequence[Stage], force_stale: bool = False, full: bool = False
) -> list[StageState]:
    """The state of every shard of every stage, in order.

    A shard whose inputs within the run have changed (a rerun upstream) is "stale" and will be done again. A shard made
    under other settings, prompts, models, versions or raw inputs raises IdentityError with the difference, unless
    `force_stale`: then it is "done" as it is, and its manifest says so. `full` hashes every output again.
    """
    finished: dict[tuple[str, int], Manifest] = {}
    refused: list[str] = []
    result = []
    for stage in stages:
        state = StageState(stage)
        for shard in range(stage.shards):
            manifest = read_manifest(run, stage.name, shard)
            word = FAILED if run.failure(stage.name, shard).is_file() else PENDING
            if manifest is not None:
                word = _state_of(run, stage, shard, manifest, finished, refused, force_stale, full)
                state.manifests[shard] = manifest
                if word == DONE:
                    finished[stage.name, shard] = manifest
            state.states.append(word)
        result.append(state)
    if refused:
        shown = "\n".join(refused[:20]) + (f"\n... and {len(refused) - 20} more" if len(refused) > 20 else "")
        raise IdentityError(
            f"{run.root}: finished shards were made under another recipe, prompt, model or input:\n{shown}\n"
            "Nothing was run. Put the old value back, or take a new --output folder, or keep the finished shards as "
            "they are with --force-stale (written into the manifests and the card)."
        )
    return result


def _state_of(
    run: RunFolder,
    stage: Stage,
    shard: int,
    manifest: Manifest,
    finished: dict[tuple[str, int], Manifest],
    refused: list[str],
    force_stale: bool,
    full: bool,
) -> str:
    fixed = {
        "version": stage.version,
        "settings": stage.identity["settings"],
        "raw_inputs": raw_identity(stage, shard, manifest),
    }
    difference = identity_difference({key: manifest.identity[key] for key in fixed}, fixed)
    if difference and not force_stale:
        lines = [f"    {key}: {old!r} -> {new!r}" for key, (old, new) in difference.items()]
        refused.append(f"  {stage.name} {shard:05d}\n" + "\n".join(lines))
        return DONE
    if difference and not manifest.forced_stale:
        manifest.forced_stale = True
        manifest.write(run.manifest(stage.name, shard))
    for name, output in manifest.outputs.items():
        condition = output_state(run.root / name, output, full)
        if condition == "changed":
            raise DataError(
                f"{run.root / name}: was changed after stage {stage.name} wrote it; "
                f"redo it with: safetrove rerun {run.root} --stage {stage.name} --rank {shard}"
            )
        if condition == "missing":
            return STALE
    wanted = wanted_identity(stage, shard, finished)
    if wanted is None or (wanted["inputs"] != manifest.identity["inputs"] and not force_stale):
        return STALE
    return DONE
