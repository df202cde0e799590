"""Tokenizers small enough to be made in a test, saved as transformers saves them."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"

_TRAINING_TEXTS = [
    "The ferry to the island leaves at nine and at noon.",
    "Knead the dough for ten minutes, then let it rise in a warm place.",
    "potentially unsafe content stands between brackets <potentially_unsafe_content> here",
]


def save_tiny_tokenizer(folder: Path, kind: str) -> Path:
    """`kind` "bpe": byte-level, every text has tokens; "words": one token a word or sign, unknown ones are one id."""
    from transformers import PreTrainedTokenizerFast

    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unknown>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=[END, "<unknown>"])
    tokenizer.train_from_iterator(_TRAINING_TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)
    return folder
