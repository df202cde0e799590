"""The data set card (README.md with YAML metadata) of one kind of synthetic text."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

from pipeline.dataset_export.export import COLUMNS, Counts, yield_share
from pipeline.dataset_export.yields import YIELDS_FOLDER
from pipeline.recipe import Recipe
from pipeline.report.run_summary import without_folders
from pipeline.stages.verification import verifying_classifiers
from rephrasers.verify import DraftKind

KIND_TITLES = {
    "rephrased": "recontextualised web text (the shape of SafeWeb)",
    "refusal": "refusal dialogues (the shape of RefuseWeb)",
    "moral": "moral education articles (the shape of Moral Education)",
}
KIND_WHAT = {
    "rephrased": "Web pages that classifiers scored as mildly to moderately unsafe, rewritten by a language model in one of "
    "twelve styles for listeners of 11 to 14: the ideas and facts stay, harmful wording goes, and what needs care is said.",
    "refusal": "Dialogues of two in which a request that carries the problem of an unsafe web page is declined well. `text` "
    "is for pretraining: its speakers have names or roles drawn by document, and a tenth keeps User and Assistant. `turns` "
    "is for fine-tuning. The page itself is not in it, and requests that carry operational detail were dropped.",
    "moral": "Short articles in the third person about the principle behind a refusal, written from refusal dialogues.",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
# What the Hub lists; any other licence is "other" there and stands in the card's text.
_HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by", "odbl", "bsd-3-clause",
}  # fmt: skip
_HUB_NAMES = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl"}


def dataset_card(recipe: Recipe, kind: DraftKind, counts: Counts) -> str:
    """The README of a data set: metadata, what it is, numbers, lineage, limits, licences."""
    metadata = yaml.safe_dump(card_metadata(recipe, kind, counts), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {recipe.name}: {KIND_TITLES[kind]}",
        KIND_WHAT[kind],
        _warnings(counts),
        "## Numbers\n\n" + numbers_text(counts),
        "## How it was made\n\n" + making_text(recipe, counts),
        "## Columns\n\n" + _columns(kind),
        "## Limits\n\n" + limits_text(counts),
        "## Licences of the sources\n\n" + _licences(recipe, counts),
    ]
    return f"---\n{metadata}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def card_metadata(recipe: Recipe, kind: DraftKind, counts: Counts) -> dict[str, Any]:
    """The YAML head that the Hub and `datasets` read."""
    languages = sorted(language for language in counts.by.get("language", ()) if language not in ("und", "None"))
    return {
        "pretty_name": f"{recipe.name}: {KIND_TITLES[kind]}",
        "license": hub_licence(counts.by.get("licence", Counter())),
        **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"],
        "tags": ["safety", "safety-pretraining", "synthetic"],
        "size_categories": [size_category(counts.rows)],
        "configs": _configs(counts.rows),
    }


def size_category(rows: int) -> str:
    """The Hub's word for so many rows."""
    return next((name for most, name in _SIZES if rows < most), "n>1B")


def _configs(rows: int) -> list[dict[str, Any]]:
    """Where `datasets` finds what. It raises for a split without rows, so an empty `train` is not named."""
    texts = {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
    yields = {"config_name": "yields", "data_files": [{"split": "yields", "path": f"{YIELDS_FOLDER}/*.parquet"}]}
    return [texts, yields] if rows else [yields]


def hub_licence(licences: Counter[str]) -> str:
    """The one licence of all rows where the Hub knows it, "unknown" where one is, else "other"."""
    names = {_HUB_NAMES.get(name.lower(), name.lower()) for name in licences}
    if not names or "unknown" in names:
        return "unknown"
    return names.pop() if len(names) == 1 and names <= _HUB_LICENCES else "other"


def _warnings(counts: Counts) -> str:
    if counts.rows == 0:
        return (
            "**This data set is empty: none of the drafts passed verification.** That is a result, not a fault: only what "
            "passes its checks is kept, whatever the writer. There is no split `train`, since `datasets` cannot read one "
            "without rows; `load_dataset` gives the split `yields`, which says what was written and why it was dropped. "
            "The file under `data/` has the columns and no rows."
        )
    return ""


def numbers_text(counts: Counts) -> str:
    """Rows, yields by style, reasons for drafts that were dropped, rows by score and category; Markdown."""
    share = yield_share(counts)
    drafts = counts.rows + counts.dropped.total()
    lines = [
        f"{counts.rows:,} texts, {counts.characters:,} characters, from {counts.shards} shards. Of {drafts:,} drafts "
        + ("none was written." if share is None else f"{counts.rows:,} ({100 * share:.1f} %) passed verification."),
    ]
    written = [row for row in counts.yields if row["drafts"]]
    if written:
        head = ("style", "drafts", "passed", "yield", "rejected by rule (one draft may break several)")
        lines.append(
            "Yield by style, over all attempts; the same numbers are rows of `yields`:\n\n"
            + _table(head, map(_yield_cells, written))
        )
    if counts.dropped:
        ordered = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
        reasons = _table(("rule", "drafts"), [(rule, f"{n:,}") for rule, n in ordered])
        lines.append("Why drafts were dropped, by the first rule that they break:\n\n" + reasons)
    for column, title in (
        ("score_before", "score of the source"),
        ("score_after", "score after"),
        ("category", "category"),
    ):
        found = counts.by.get(column)
        if found:
            lines.append(_table((title, "texts"), [(value, f"{n:,}") for value, n in sorted(found.items())]))
    return "\n\n".join(lines)


def _yield_cells(row: dict[str, Any]) -> tuple[str, ...]:
    why = ", ".join(f"{entry['rule']} {entry['drafts']:,}" for entry in row["rejected"])
    return row["style"], f"{row['drafts']:,}", f"{row['passed']:,}", f"{100 * row['passed'] / row['drafts']:.1f} %", why


def making_text(recipe: Recipe, counts: Counts) -> str:
    """Writer, settings, checks and gates; Markdown."""
    assert recipe.synthesis is not None
    llm = recipe.synthesis.llm
    writers = ", ".join(sorted(counts.by.get("model", ()))) or without_folders(llm.model)
    revisions = ", ".join(sorted(counts.by.get("revision", ())))
    return (
        f"Writer: {writers}{f' (revision {revisions})' if revisions else ''}; temperature {llm.temperature:g}, top_p "
        f"{llm.top_p:g}, at most {llm.max_tokens} tokens an answer, seed {recipe.seed}. After Safety Pretraining (arXiv "
        "2504.16980), with prompts of our own, whose names and hashes stand in each row.\n\n"
        "Every text was checked by rules about its words (empty, cut off, looping, copied, off its language, refusing where "
        "a rewrite was asked, yielding where a refusal was asked, and more) and scored again by the classifiers "
        f"({', '.join(verifying_classifiers(recipe))}). Rewrites and articles are kept only with a score of at most 1 and below "
        "their source; in dialogues every turn of the assistant has at most 1."
    )


def _columns(kind: DraftKind) -> str:
    columns = {name: what for name, what in COLUMNS.items() if kind == "refusal" or name != "turns"}
    return _table(("column", "content"), [(f"`{name}`", what) for name, what in columns.items()])


def limits_text(counts: Counts) -> str:
    """What synthetic texts are not; a Markdown list."""
    limits = [
        "Written by a language model: facts may be wrong, left out or made up. Checks for kept facts are rough.",
        "The scores are those of classifiers, which miss things; a low score is no proof of safety. Do not use the rows as "
        "labels of a benchmark.",
        "What the writer tends to get past the checks is over-represented: compare the yields of the styles above.",
        "Texts may name real persons, places and firms that stood in public pages.",
        "Category and source score describe the page that a text was written from, not the text.",
    ]
    if any("SmolLM2-135M" in model for model in counts.by.get("model", ())):
        limits.insert(0, "The writer is a very small model for demonstrations: use another for a corpus to train on.")
    return "\n".join(f"- {limit}" for limit in limits)


def _licences(recipe: Recipe, counts: Counts) -> str:
    stated = {source.name: source.licence for source in recipe.sources}
    rows = counts.by.get("source", Counter())
    table = _table(("source", "licence", "texts"), [(n, licence, f"{rows[n]:,}") for n, licence in stated.items()])
    note = "Texts are derived from pages of these sources; their terms, and those of the writer's licence, apply."
    if "unknown" in stated.values():
        note += " **A source states no licence: settle that before publishing.**"
    return f"{table}\n\n{note}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str) -> str:
    """A value that cannot break its row of the table."""
    return " ".join(value.replace("|", "\\|").split())
