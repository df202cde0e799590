"""`python -m pretrain.tokenizer_training RUN OUT`: a small byte-level BPE tokenizer from the documents of a corpus run.

A toy model with the vocabulary of a large one spends its weights on rows that it never learns. The result is a Hugging
Face folder; to tokenise a run with it set `tokenise.tokenizer: OUT` and `tokenise.end_of_document: <|endoftext|>`.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pretrain.atomic_files import temporary_name
from pretrain.errors import PretrainDataError, PretrainError, PretrainRecipeError

END_OF_DOCUMENT: Final = "<|endoftext|>"
TAG: Final = "<potentially_unsafe_content>"
# The bytes, and the two special tokens.
_SMALLEST_VOCABULARY: Final = 258


def training_texts(run: Path) -> Iterator[str]:
    """Texts of a run's documents in order, safe and unsafe; those marked never_train are left out.

    Raises `PretrainDataError` where the run has no scored documents, or scores that are not those of its documents.
    """
    import pyarrow.parquet as pq

    shards = sorted((run / "documents").glob("*.parquet"))
    if not shards:
        raise PretrainDataError(f"{run / 'documents'} holds no .parquet files; give the folder of a corpus run")
    for shard in shards:
        scores = run / "scores" / "final" / shard.name
        if not scores.is_file():
            raise PretrainDataError(f"{scores} is missing; run the pipeline up to the stage score-final first")
        with pq.ParquetFile(shard) as texts, pq.ParquetFile(scores) as marks:
            if texts.metadata.num_rows != marks.metadata.num_rows:
                raise PretrainDataError(f"{scores} has another number of rows than {shard}; rerun score-final")
            barred = {
                row["id"] for row in marks.read(["id", "never_train"]).to_pylist() if row["never_train"] is not None
            }
            for batch in texts.iter_batches(batch_size=1000, columns=["id", "text"]):
                yield from (row["text"] for row in batch.to_pylist() if row["id"] not in barred)


def train_tokenizer(texts: Iterator[str], destination: Path, vocabulary_size: int) -> int:
    """Write a Hugging Face folder with a byte-level BPE of at most `vocabulary_size` tokens; returns their number.

    The end of a document has id 0, the harmfulness tag id 1. Equal texts give equal bytes. Raises `PretrainDataError` for
    a vocabulary too small for the bytes, and for a destination that exists.
    """
    if vocabulary_size < _SMALLEST_VOCABULARY:
        raise PretrainRecipeError(f"a vocabulary of {vocabulary_size} is too small; it needs {_SMALLEST_VOCABULARY}")
    if destination.exists():
        raise PretrainDataError(f"{destination} exists; tokens may have been written with it: choose another folder")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_DOCUMENT, TAG],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_DOCUMENT,
        eos_token=END_OF_DOCUMENT,
        additional_special_tokens=[TAG],
        clean_up_tokenization_spaces=False,
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(destination)
    shutil.rmtree(temporary, ignore_errors=True)
    whole.save_pretrained(temporary)
    temporary.replace(destination)
    return len(whole)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 missing or broken run, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain.tokenizer_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m pretrain.tokenizer_training runs/demo runs/tokenizer-8k",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a corpus run whose documents are scored")
    parser.add_argument("destination", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens, with the end of a document and the tag")
    given = parser.parse_args(arguments)
    try:
        tokens = train_tokenizer(training_texts(given.run), given.destination, given.vocabulary)
    except PretrainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{tokens} tokens in {given.destination}; tokenise.end_of_document: {END_OF_DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
