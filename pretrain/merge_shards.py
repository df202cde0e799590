"""`python -m pretrain.merge_shards OUT SHARD ...`: one `.bin/.idx` out of many, in their order or shuffled by document.

OUT and SHARD are prefixes without `.bin` and `.idx`. Levels (`SHARD.levels`) are merged with them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.atomic_files import sync_file, sync_folder, temporary_name
from pretrain.errors import PretrainDataError, PretrainError, PretrainRecipeError
from pretrain.indexed_dataset import IndexedDataset, IndexedDatasetBuilder, data_path, index_path
from pretrain.levels import UNKNOWN_LEVEL, levels_path, read_levels


def merge_shards(destination: str | Path, shards: Sequence[str | Path], shuffle_seed: int | None = None) -> int:
    """Write `destination` from the documents of all `shards`; returns their number.

    Without `shuffle_seed` the bytes are those of megatron-core's `IndexedDatasetBuilder.add_index`. With it the documents
    stand in an order that depends on the seed and their number alone. Memory: 12 bytes a sequence and 16 a document.
    Raises `PretrainDataError` for broken shards, shards of unequal dtype, and a destination that is one of them.
    """
    if not shards:
        raise PretrainDataError(f"there are no shards to merge into {destination}")
    if Path(destination).resolve() in {Path(shard).resolve() for shard in shards}:
        raise PretrainDataError(f"{destination} is one of the shards; merge into another name")
    sets = [IndexedDataset(shard) for shard in shards]
    for shard, dataset in zip(shards, sets, strict=True):
        if dataset.dtype != sets[0].dtype:
            raise PretrainDataError(
                f"{index_path(shard)} holds {dataset.dtype.name} tokens, {index_path(shards[0])} holds "
                f"{sets[0].dtype.name}; tokenise both with the same tokenizer"
            )
    documents = sum(len(dataset.document_boundaries) - 1 for dataset in sets)
    order = None if shuffle_seed is None else np.random.RandomState(shuffle_seed).permutation(documents)
    # Levels belong to the files beside them: none of an earlier run may stand beside new data.
    levels_path(destination).unlink(missing_ok=True)
    with IndexedDatasetBuilder(destination, sets[0].dtype) as builder:
        if order is None:
            for shard in shards:
                builder.add_index(shard)
        else:
            _add_in_order(builder, sets, order)
    _merge_levels(destination, shards, sets, order)
    return documents


def _add_in_order(builder: IndexedDatasetBuilder, sets: Sequence[IndexedDataset], order: np.ndarray) -> None:
    first_documents = np.cumsum([0] + [len(dataset.document_boundaries) - 1 for dataset in sets])
    for document in order:
        which = int(np.searchsorted(first_documents, document, side="right")) - 1
        dataset, inside = sets[which], int(document - first_documents[which])
        for sequence in range(int(dataset.document_boundaries[inside]), int(dataset.document_boundaries[inside + 1])):
            builder.add_sequence(dataset[sequence])
        builder.end_document()


def _merge_levels(
    destination: str | Path, shards: Sequence[str | Path], sets: Sequence[IndexedDataset], order: np.ndarray | None
) -> None:
    counts = [len(dataset.document_boundaries) - 1 for dataset in sets]
    parts = [read_levels(shard, count) for shard, count in zip(shards, counts, strict=True)]
    if all(part is None for part in parts):
        return
    levels = np.concatenate(
        [
            np.full(count, UNKNOWN_LEVEL, np.uint8) if part is None else part
            for part, count in zip(parts, counts, strict=True)
        ]
    )
    final = levels_path(destination)
    temporary = temporary_name(final)
    temporary.write_bytes((levels if order is None else levels[order]).tobytes())
    sync_file(temporary)
    temporary.replace(final)
    sync_folder(final.parent)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 broken shards, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain.merge_shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m pretrain.merge_shards merged/safe runs/demo/tokens/safe/*.idx --shuffle-seed 1234",
    )
    parser.add_argument("destination", metavar="OUT", help="prefix of the merged files")
    parser.add_argument("shards", metavar="SHARD", nargs="+", help="prefixes, or their .idx files (for wildcards)")
    parser.add_argument(
        "--shuffle-seed", type=int, help="shuffle the documents by this seed; default: keep their order"
    )
    given = parser.parse_args(arguments)
    try:
        if given.shuffle_seed is not None and not 0 <= given.shuffle_seed < 2**32:
            raise PretrainRecipeError(f"--shuffle-seed {given.shuffle_seed}: expected a number from 0 to 4294967295")
        shards = [shard.removesuffix(".idx") for shard in given.shards]
        documents = merge_shards(given.destination, shards, given.shuffle_seed)
    except PretrainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    size = data_path(given.destination).stat().st_size
    print(f"{documents} documents of {len(shards)} shards, {size} bytes of tokens in {data_path(given.destination)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
