"""The rooms are top-level packages; nobody else's `pipeline` or `evaluation` may be imported in their place."""

import importlib.util
from pathlib import Path

ROOMS = ("pipeline", "classifiers", "rephrasers", "pretrain", "finetune", "decoding", "evaluation")
HOME = Path(__file__).resolve().parent.parent


def check_rooms() -> str | None:
    """None, or which room is shadowed and by what. Nothing is imported for it."""
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        if spec is None or spec.origin is None:
            return f"the room {room!r} is missing beside {HOME / 'safetrove'}; install safetrove from a whole checkout"
        found = Path(spec.origin).resolve().parent
        if found != HOME / room:
            return (
                f"{found} shadows safetrove's own {HOME / room}; run from another folder, "
                f"or take {found.parent} off PYTHONPATH"
            )
    return None
