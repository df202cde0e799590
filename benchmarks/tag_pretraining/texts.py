"""Which real texts are trained on and which are held out. Prompts (of evaluation suites, or found on the web) are neither."""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from classifiers.errors import DataError
from pipeline.atomic_files import write_text

# `request` rows are prompts of evaluation suites; `web_prompt` rows of our own texts imitate jailbreak prompts.
NOT_ANNOTATED: Final = frozenset({"request"})
NOT_OWN: Final = frozenset({"request", "web_prompt"})
HELD_OUT_SHARE: Final = 0.15


def is_held_out(text: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a text of the training file is held out: a hash of the text below `share`, so that equal texts stay together."""
    digest = hashlib.blake2b(f"held-out\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def prepare_texts(annotations: Path, own: Path, folder: Path) -> dict[str, int]:
    """Write `annotated.jsonl`, `own.jsonl` and `held_out.jsonl` into `folder`; returns their numbers of rows.

    `annotations` holds `train.jsonl` and `dev.jsonl`, `own` the classifiers' own texts. Held out are the whole dev file and
    a share of the training file. Rows are `id, source (kind of text), score, text`; the given labels are the scores.
    """
    train, dev = (_rows([annotations / f"{name}.jsonl"], NOT_ANNOTATED) for name in ("train", "dev"))
    held_out = dev + [row for row in train if is_held_out(row["text"])]
    barred = {row["text"] for row in held_out}
    files = {
        "annotated": [row for row in train if row["text"] not in barred],
        "own": [row for row in _rows(sorted(own.glob("*.jsonl")), NOT_OWN) if row["text"] not in barred],
        "held_out": list({row["text"]: row for row in held_out}.values()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = folder / f"{name}.jsonl"
        if not path.is_file() or path.read_text(encoding="utf-8") != lines:
            write_text(path, lines)
    return {name: len(rows) for name, rows in files.items()}


def _rows(paths: Iterable[Path], left_out: frozenset[str]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing; --data names the folder that holds annotations/ and web/")
        for line in io.StringIO(path.read_text(encoding="utf-8")):
            row = json.loads(line)
            if row["source"] not in left_out:
                text = row["text"]
                name = row.get("id") or hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
                rows.append({"id": name, "source": row["source"], "score": int(row["score"]), "text": text})
    return rows
