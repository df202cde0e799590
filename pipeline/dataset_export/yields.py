"""The yields of one kind as a table of its own beside the texts: style by style what was written, what passed, why not.

It is also what keeps a data set without texts readable: `datasets` (5.2) raises for a split without rows, so that split is
left out of the card's metadata and this table, which always has rows, is what `load_dataset` finds.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest import Manifest

YIELDS_FOLDER = "yields"

YIELDS_SCHEMA = pa.schema(
    [
        ("style", pa.string()),
        ("drafts", pa.int64()),  # texts of all attempts
        ("passed", pa.int64()),
        # texts that broke a rule; one text may break several
        ("rejected", pa.list_(pa.struct([("rule", pa.string()), ("drafts", pa.int64())]))),
    ]
)


def yields_by_style(manifests: Iterable[Manifest], styles: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of `YIELDS_SCHEMA` from the manifests of `verify-<kind>`, by style; `styles` have a row also where none was written."""
    drafts: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    rejected: dict[str, Counter[str]] = {style: Counter() for style in styles}
    for manifest in manifests:
        for style, (accepted, tried) in manifest.metrics.get("yield_by_style", {}).items():
            drafts[style] += tried
            passed[style] += accepted
            rejected.setdefault(style, Counter()).update(manifest.metrics.get("rejected_by_style", {}).get(style, {}))
    return [
        {
            "style": style,
            "drafts": drafts[style],
            "passed": passed[style],
            "rejected": [{"rule": rule, "drafts": number} for rule, number in _most_first(rejected[style])],
        }
        for style in sorted(rejected)
    ]


def write_yields(rows: list[dict[str, Any]], folder: Path) -> None:
    """FOLDER/yields/yields.parquet."""
    (folder / YIELDS_FOLDER).mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=YIELDS_SCHEMA), folder / YIELDS_FOLDER / "yields.parquet")


def _most_first(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
