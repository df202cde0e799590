"""The ledger: in = kept + dropped + quarantined in each shard, and what one stage wrote is what the next one read."""

from classifiers.errors import DataError
from pipeline.shard_state import DONE, StageState


def ledger_errors(states: list[StageState]) -> list[str]:
    """What does not add up, in words; empty where every finished shard's rows are accounted for."""
    rows_of = {
        name: output.rows
        for state in states
        for shard in state.shards(DONE)
        for name, output in state.manifests[shard].outputs.items()
    }
    errors = []
    for state in states:
        for shard in state.shards(DONE):
            rows = state.manifests[shard].rows
            where = f"stage {state.stage.name}, shard {shard:05d}"
            if rows.missing():
                errors.append(f"{where}: {rows.to_json()} leaves {rows.missing()} rows unaccounted for")
            table = state.stage.main_input(shard)
            if table is not None and rows_of.get(table) not in (None, rows.rows_in):
                errors.append(f"{where}: read {rows.rows_in} rows of {table}, which has {rows_of[table]}")
    return errors


def check_ledger(states: list[StageState]) -> None:
    """Raises DataError with every place where rows are lost or doubled."""
    errors = ledger_errors(states)
    if errors:
        raise DataError("the ledger is broken:\n" + "\n".join(f"  {error}" for error in errors[:20]))
