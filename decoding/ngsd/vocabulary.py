"""Whether two models speak of the same tokens: probabilities can be mixed only id by id."""

from classifiers.errors import ModelError
from decoding.ngsd.chat import ChatModel


def shared_vocabulary(base: ChatModel, expert: ChatModel) -> int:
    """The number of ids that both tokenizers share. Equal sizes are not enough: each id must mean the same string.

    Raises ModelError that names the first ids that differ, or the model whose matrix is smaller than its vocabulary.
    """
    ours, theirs = (side.tokenizer.get_vocab() for side in (base, expert))
    if ours != theirs:
        differing = sorted({*ours.items()} ^ {*theirs.items()}, key=lambda pair: (pair[1], pair[0]))
        shown = ", ".join(
            f"id {token_id} is {token!r} in {(base if ours.get(token) == token_id else expert).name} only"
            for token, token_id in differing[:3]
        )
        raise ModelError(
            f"{base.name} and {expert.name} have different vocabularies ({len(differing)} differing entries: {shown}): "
            "the expert must be trained from a model of the base's family, with the same tokenizer"
        )
    size = max(ours.values()) + 1
    for side in (base, expert):
        rows = int(side.model.get_output_embeddings().weight.shape[0])
        if rows < size:
            raise ModelError(f"{side.name} has logits for {rows} ids, but its tokenizer has {size}: wrong tokenizer")
    return size
