"""What the servers make of temperature, seeds and stop strings, said before they are asked; stop strings cut on our side."""

from collections.abc import Sequence

from rephrasers.servers.settings import ServerSettings


def sampling_notes(settings: ServerSettings, kind: str) -> list[str]:
    """What of the sampling settings a server of this kind (`choose_server`) will not honour, a sentence each.

    As seen with transformers 5.23 and vLLM 0.32; of somebody else's endpoint nothing is known.
    """
    if kind != "transformers" or settings.temperature == 0:
        return []
    if not settings.continuous_batching:
        return ["`transformers serve` sets a request's seed for the whole process: it holds for one request at a time"]
    notes = [
        f"`transformers serve` keeps temperature {settings.temperature:g} and top_p {settings.top_p:g} of its first "
        "request, which is sent at its start, until it ends"
    ]
    if settings.send_seeds:
        notes.append(
            "`transformers serve` batches requests with one random state: seeds do not make answers repeatable"
        )
    if settings.stop:
        notes.append(
            "`transformers serve` ignores stop strings here: answers are cut afterwards and cost their full length"
        )
    return notes


def cut_at_stop(text: str, finish_reason: str, stop: Sequence[str]) -> tuple[str, str]:
    """(the text before the first stop string in it, "stop"), or both as they are where there is none."""
    ends = [place for place in map(text.find, stop) if place >= 0]
    return (text[: min(ends)], "stop") if ends else (text, finish_reason)
