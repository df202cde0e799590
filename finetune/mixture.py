"""The rows of a run: sources read or built, drawn by their ids, mixed by shares, tagged, tokenised, some held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.arithmetic_problems import arithmetic_problems
from finetune.chat_data import Chat, TokenisedChat, data_sha256, read_chats, tokenise_chats
from finetune.errors import FinetuneDataError
from finetune.recipe import ChatRecipe, DataSource
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from rephrasers.keyed_draws import keyed_uniforms

# (text, document id, rate, seed, least number of tags) -> the text with its tags: `pipeline.tagging.insert_tags`, which this
# room may not import; the command line hands it in.
Tagger = Callable[[str, str, float, int, int], str]


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on and what is held out. `facts`: counts and hashes for the result file."""

    train: list[TokenisedChat]
    held_out: list[TokenisedChat]
    train_chats: list[Chat]
    facts: dict[str, Any]


def build_rows(recipe: ChatRecipe, tokenizer: Any, tagger: Tagger | None = None) -> TrainingRows:
    """Reads, mixes, tags and tokenises. Raises FinetuneDataError for everything that is wrong with the data."""
    mixed = mix_sources(recipe.data, recipe.seed, tagger, tokenizer)
    chats = [chat for part in mixed.values() for chat in part]
    _refuse_two_chats_of_one_id(chats)
    held_out = {chat.id for chat in drawn(chats, recipe.evaluation_rows, recipe.seed, "finetune-held-out")}
    if recipe.evaluation_rows >= len(chats):
        raise FinetuneDataError(
            f"evaluation_rows {recipe.evaluation_rows} leaves nothing of {len(chats)} rows to train on"
        )
    allowed = frozenset([HARMFULNESS_TAG]) if any(source.tag_rate for source in recipe.data) else frozenset()
    groups = [chat for chat in chats if chat.id not in held_out], [chat for chat in chats if chat.id in held_out]
    train, kept_out = (
        tokenise_chats(group, tokenizer, recipe.max_length, recipe.too_long, allowed) if group else []
        for group in groups
    )
    trained = {row.id for row in train}
    facts = {
        "sha256": data_sha256(train),
        "held_out_sha256": data_sha256(kept_out),
        "sources": {name: len(part) for name, part in mixed.items()},
        "rows": len(train),
        "held_out_rows": len(kept_out),
        "too_long_dropped": len(chats) - len(train) - len(kept_out),
        "tokens": sum(len(row.input_ids) for row in train),
        "supervised_tokens": sum(row.supervised for row in train),
    }
    return TrainingRows(train, kept_out, [chat for chat in chats if chat.id in trained], facts)


def mix_sources(
    sources: Sequence[DataSource], seed: int, tagger: Tagger | None, tokenizer: Any
) -> dict[str, list[Chat]]:
    """Chats by source. Sources without a share are used whole (or `rows` of them); one with share s gives s of all rows."""
    read = {source.name: _distinct(_chats(source, seed)) for source in sources}
    whole = sum(min(len(read[s.name]), s.rows or len(read[s.name])) for s in sources if s.share is None)
    total = whole / (1 - sum(source.share or 0 for source in sources))
    mixed = {}
    for source in sources:
        chats = read[source.name]
        wanted = source.rows or len(chats) if source.share is None else round(source.share * total)
        if wanted > len(chats):
            raise FinetuneDataError(
                f"data {source.name!r}: {wanted} rows are wanted, {len(chats)} are there; lower its "
                f"{'rows' if source.share is None else 'share'}, or use fewer rows of the other sources"
            )
        chosen = drawn(chats, wanted, seed, f"finetune-{source.name}")
        if source.tag_rate is not None:
            chosen = [_tagged(chat, source, seed, tagger, tokenizer) for chat in chosen]
        mixed[source.name] = chosen
    return mixed


def drawn(chats: Sequence[Chat], count: int, seed: int, stream: str) -> list[Chat]:
    """The `count` chats with the smallest draws of their ids, in their old order: the same rows wherever they stand."""
    if count >= len(chats):
        return list(chats)
    draws = {chat.id: float(keyed_uniforms(seed, stream, chat.id, 1)[0]) for chat in chats}
    chosen = {chat.id for chat in sorted(chats, key=lambda chat: (draws[chat.id], chat.id))[:count]}
    return [chat for chat in chats if chat.id in chosen]


def _chats(source: DataSource, seed: int) -> list[Chat]:
    if source.path is not None:
        return read_chats(source.path)
    assert source.rows is not None  # the recipe's own check
    return arithmetic_problems(source.rows, seed)


def _distinct(chats: list[Chat]) -> list[Chat]:
    """Without exact repetitions, first one kept."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for chat in chats:
        key = (chat.id, repr(chat.messages))
        if key not in seen:
            seen.add(key)
            kept.append(chat)
    _refuse_two_chats_of_one_id(kept)
    return kept


def _refuse_two_chats_of_one_id(chats: Sequence[Chat]) -> None:
    places: dict[str, str] = {}
    for chat in chats:
        if chat.id in places:
            raise FinetuneDataError(
                f"{chat.place or chat.id}: its id {chat.id!r} is that of {places[chat.id] or 'another row'} too; give rows "
                "distinct ids, and name a file in one source only"
            )
        places[chat.id] = chat.place


def _tagged(chat: Chat, source: DataSource, seed: int, tagger: Tagger | None, tokenizer: Any) -> Chat:
    if HARMFULNESS_TAG not in tokenizer.get_vocab():
        raise FinetuneDataError(
            f"data {source.name!r}: tag_rate is set, and the model's tokenizer has no {HARMFULNESS_TAG}: take a model that "
            "was pretrained with the tag, or leave this source out"
        )
    if tagger is None:
        raise FinetuneDataError(f"data {source.name!r}: tag_rate is set; call this with pipeline.tagging.insert_tags")
    assert source.tag_rate is not None
    messages = []
    for number, message in enumerate(chat.messages):
        if message["role"] == "assistant":
            try:
                text = tagger(message["content"], f"{chat.id}#{number}", source.tag_rate, seed, 1)
            except ValueError as error:
                raise FinetuneDataError(f"{chat.place or chat.id}, message {number + 1}: {error}") from error
            message = {"role": "assistant", "content": text}
        messages.append(message)
    return replace(chat, messages=tuple(messages))
