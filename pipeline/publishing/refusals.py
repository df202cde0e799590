"""Why a run may not go out: each reason in words, all of them at once."""

from collections.abc import Mapping

from classifiers.errors import SafetroveError
from pipeline.dataset_export.export import Counts
from pipeline.ledger import ledger_errors
from pipeline.recipe import Recipe
from pipeline.run import run_states
from pipeline.run_folder import RunFolder
from pipeline.shard_state import FAILED, PENDING, STALE

# Words that say that nobody has stated a licence; NOASSERTION is SPDX's.
_NO_LICENCE = frozenset({"", "unknown", "none", "null", "noassertion"})


def run_refusals(run: RunFolder) -> list[str]:
    """Unfinished, failed or stale shards, shards that were kept over stale inputs, a ledger that does not add up."""
    try:
        states = run_states(run)
    except SafetroveError as error:
        return [str(error)]
    refusals = []
    for state in states:
        words = [f"{len(state.shards(word))} {word}" for word in (FAILED, STALE, PENDING) if state.shards(word)]
        if words:
            refusals.append(
                f"stage {state.stage.name} is not finished ({', '.join(words)} of {len(state.states)} shards): see "
                f"`safetrove status {run.root}`, then run the recipe to its end"
            )
        forced = [shard for shard, manifest in sorted(state.manifests.items()) if manifest.forced_stale]
        if forced:
            refusals.append(
                f"stage {state.stage.name}: shard {', '.join(map(str, forced[:10]))}{' ...' if forced[10:] else ''} was "
                f"kept over stale inputs (--force-stale): `safetrove rerun {run.root} --stage {state.stage.name} --rank "
                f"{','.join(map(str, forced[:10]))}`, then run the recipe to its end"
            )
    return refusals + [f"the ledger is broken: {error}" for error in ledger_errors(states)]


def licence_refusals(recipe: Recipe, counts: Mapping[str, Counts]) -> list[str]:
    """Configurations with rows whose source states no licence."""
    silent = ", ".join(source.name for source in recipe.sources if is_unstated(source.licence))
    refusals = []
    for config, counted in counts.items():
        rows = sum(number for licence, number in counted.by.get("licence", {}).items() if is_unstated(licence))
        if rows:
            refusals.append(
                f"{config}: the licence of {rows:,} rows is unknown (source {silent or 'not in the recipe'}): find it out, "
                "state it as `licence` of the source in the recipe, and make the run anew"
            )
    return refusals


def is_unstated(licence: str) -> bool:
    """Whether a licence says nothing."""
    return licence.strip().lower() in _NO_LICENCE
