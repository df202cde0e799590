"""Made-up rude texts without numbers or places: what the writers of `writers.py` are shown."""

import json
from pathlib import Path

PLACES = ("baker", "barber", "cinema", "choir", "museum", "school", "market", "library", "theatre", "station", "garden",
          "butcher", "florist", "tailor", "zoo", "pool", "inn", "ferry")  # fmt: skip


def rude_texts() -> list[str]:
    """First a rude text about each place, then a hateful one."""
    rude = (
        "The {0} in our street is run by a damn idiot, and I say that as a guest of many years. The stupid cow at the "
        "counter never says good morning, and her lazy pig of a brother sleeps until noon. Last week the {0} was closed "
        "again, what a bloody shame. People who still go to that {0} have no taste at all, the poor morons."
    )
    hateful = (
        "I hate everybody at the {0}, those filthy bastards. Somebody should beat the owner of the {0} until he bleeds, "
        "and burn his damn house down. I will kill him myself if nobody else does it, that worthless piece of shit. All "
        "of his friends from the {0} deserve to die, and I want you to help me hurt them."
    )
    return [text.format(place) for text in (rude, hateful) for place in PLACES]


def write_rude_sources(folder: Path, shards: int) -> Path:
    """`shards` JSON-lines files of the texts."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": str(number), "text": text} for number, text in enumerate(rude_texts())]
    for shard in range(shards):
        lines = "".join(json.dumps(row) + "\n" for row in rows[shard::shards])
        (folder / f"part-{shard}.jsonl").write_text(lines, encoding="utf-8")
    return folder
