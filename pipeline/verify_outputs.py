"""Every manifest and every output of a run against each other, byte by byte: what was edited, cut off or lost afterwards."""

from classifiers.errors import DataError
from pipeline.manifest import Manifest, output_state
from pipeline.run_folder import RunFolder

SHOWN = 20
_WORDS = {"changed": "was changed after stage {} wrote it", "missing": "is gone; stage {} wrote it"}


def damaged_outputs(run: RunFolder) -> list[str]:
    """One line for each manifest that was edited and each recorded output whose bytes are not those that were written.

    Reads manifests and files alone: no recipe, no models. Each line ends with the command, or the file to remove, that
    has the shard done again.
    """
    found = []
    for path in sorted((run.root / "manifests").glob("*/*.json")):
        if path.name.endswith(".failed.json"):
            continue
        try:
            manifest = Manifest.read(path)
        except FileNotFoundError:
            continue  # its shard is being done again
        except DataError as error:
            found.append(str(error))
            continue
        for name, recorded in manifest.outputs.items():
            state = output_state(run.root / name, recorded, full=True)
            if state != "ok":
                found.append(
                    f"{run.root / name}: {_WORDS[state].format(manifest.stage)}; redo it with: "
                    f"safetrove rerun {run.root} --stage {manifest.stage} --rank {manifest.shard}"
                )
    return found


def check_outputs(run: RunFolder) -> None:
    """Raises DataError with every place where `damaged_outputs` finds something."""
    found = damaged_outputs(run)
    if found:
        more = f"\n  ... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        lines = "\n".join(f"  {line}" for line in found[:SHOWN])
        raise DataError(f"{run.root}: {len(found)} files are not as they were written:\n{lines}{more}")
