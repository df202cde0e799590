"""The Data Safety Report Card of a run: data, and its four renderings in `RUN/report/`."""

from pathlib import Path
from typing import Any

from classifiers.errors import DataError
from pipeline.atomic_files import atomic_path, write_json, write_text
from pipeline.report.judge import judge_health
from pipeline.report.phrase_lists import CATEGORY_TITLES
from pipeline.report.phrase_tables import histograms, phrase_rates, unsafe_share
from pipeline.report.rates import CONFIDENCE
from pipeline.report.run_summary import (
    how_it_was_made,
    ledger,
    missing_parts,
    read_manifests,
    read_recipe,
    removed_documents,
    synthetic_yield,
    token_counts,
    warnings_of,
    writer_name,
)
from pipeline.report.tallies import Tally

CARD_FORMAT = "safetrove-card"
CARD_VERSION = 1
TOP_LANGUAGES = 10
WEAK_YIELD = 0.5


def build_card(run: Path) -> dict[str, Any]:
    """Builds the card of a run and writes `RUN/report/card.{json,md,html,png}`, each atomically; returns its data.

    Works from any finished stage on: what has not run is listed under `missing`. The data hold no time, no folder
    and no host, so equal runs give equal bytes. Raises DataError where `run` is no run folder or a file is damaged.
    """
    # Matplotlib and Jinja2 are slow to import; reading a card needs neither.
    from pipeline.report.figure import draw_figure
    from pipeline.report.html import render_html
    from pipeline.report.markdown import render_markdown

    card = card_data(run)
    report = run / "report"
    write_json(report / "card.json", card)
    write_text(report / "card.md", render_markdown(card))
    write_text(report / "card.html", render_html(card))
    with atomic_path(report / "card.png") as temporary:
        draw_figure(card, temporary)
    return card


def card_data(run: Path) -> dict[str, Any]:
    """The card as JSON-able data, without writing anything. Rates are per million tokens, shares in [0, 1]."""
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder; give the folder that holds recipe.yaml and manifests/")
    manifests = read_manifests(run)
    recipe, recipe_sha256 = read_recipe(run)
    tally = read_tallies(run)
    if not manifests and tally is None:
        raise DataError(f"{run}: nothing has finished in this run yet (no manifests, no card_counts)")
    ledger_rows = ledger(run, manifests)
    synthetic = synthetic_yield(manifests, ledger_rows)
    missing = missing_parts(manifests, recipe)
    if tally is None and "card-counts" not in missing:
        missing.append("card-counts")
    return {
        "format": CARD_FORMAT,
        "version": CARD_VERSION,
        "name": str(recipe.get("name", run.name)),
        "confidence": CONFIDENCE,
        "categories": dict(CATEGORY_TITLES),
        "headline": headline(tally, removed_documents(manifests, ledger_rows)),
        "sources": source_rows(tally, recipe),
        "languages": languages(tally),
        "histogram": histograms(tally) if tally else None,
        "phrase_rates": phrase_rates(tally) if tally else None,
        "phrase_lists_sha256": tally.lists_sha256 if tally else None,
        "synthetic": synthetic,
        "writer": writer_name(recipe),
        "weak_writer": weak_writer(synthetic),
        "judge": judge_health(manifests, recipe),
        "tokens": token_counts(run, manifests),
        "ledger": ledger_rows,
        "made": {"seed": recipe.get("seed"), "recipe_sha256": recipe_sha256, "settings": how_it_was_made(recipe)},
        "stale": any(row["forced_stale"] for row in ledger_rows),
        "warnings": warnings_of(ledger_rows),
        "missing": missing,
        "limits": limits(writer_name(recipe)),
    }


def read_tallies(run: Path) -> Tally | None:
    """The sum of all shards' card counts; None where there are none."""
    paths = sorted((run / "card_counts").glob("*.json"))
    total: Tally | None = None
    for path in paths:
        tally = Tally.from_json(path.read_bytes(), str(path))
        if total is None:
            total = tally
        else:
            total.merge(tally)
    if total is not None and total.lists_sha256 != Tally().lists_sha256:
        raise DataError(
            f"{paths[0].parent}: counted with other phrase lists than this version's; rerun the card-counts stage"
        )
    return total


def headline(tally: Tally | None, removed: dict[str, Any]) -> dict[str, Any]:
    """The numbers on top: documents, tokens, share flagged unsafe, what was taken out."""
    result: dict[str, Any] = {"removed": removed, "documents": None, "tokens": None, "unsafe": None}
    if tally is None:
        return result
    originals = tally.total("original")
    histogram = tally.score_histogram()
    result |= {"documents": originals.documents, "tokens": originals.tokens, "unsafe": unsafe_share(histogram, 1)}
    result["clearly_unsafe"] = unsafe_share(histogram, 3)
    return result


def source_rows(tally: Tally | None, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a source, from the recipe (licence) and the counts (documents, tokens, share unsafe)."""
    licences = {str(s.get("name")): str(s.get("licence", "unknown")) for s in recipe.get("sources") or []}
    names = sorted(licences.keys() | set(tally.sources() if tally else ()))
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name, "licence": licences.get(name, "unknown"), "documents": None}
        if tally is not None:
            sums = tally.total("original", sources=[name])
            row |= {"documents": sums.documents, "tokens": sums.tokens}
            row["unsafe"] = unsafe_share(tally.score_histogram(source=name), 1)
        rows.append(row)
    return rows


def languages(tally: Tally | None) -> list[dict[str, Any]]:
    """The ten most frequent languages of the originals, and the rest under `other`; shares of documents."""
    counts: dict[str, int] = dict(tally.languages.get("original", {})) if tally else {}
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [{"language": name, "documents": n, "share": n / total} for name, n in ranked[:TOP_LANGUAGES]]
    rest = sum(n for _, n in ranked[TOP_LANGUAGES:])
    return [*rows, {"language": "other", "documents": rest, "share": rest / total}] if rest else rows


def weak_writer(synthetic: dict[str, Any]) -> bool:
    """Whether most of what the writer wrote failed verification."""
    tried = sum(entry["tried"] for entry in synthetic.values())
    return tried > 0 and sum(entry["accepted"] for entry in synthetic.values()) < WEAK_YIELD * tried


def limits(writer: str | None) -> list[str]:
    """What the numbers do not say."""
    percent = f"{CONFIDENCE:.0%}"
    return [
        "Scores are a model's labels, not people's. The scorer takes the maximum over classifiers and over the chunks "
        "of a text: it prefers recall, so the flagged share overstates the true one.",
        f"Intervals are {percent}, two-sided. Shares: Wilson. Rates: exact Poisson, widened by a design effect because "
        "hits cluster in documents; with no hit the upper end is the exact bound and no clustering can be seen. They "
        "speak of text drawn like this text, not of other sources, and not of the scorer's errors.",
        "Phrase counts see words, not meaning: a news report and a threat can hold the same phrase, harm without these "
        "words is not seen, and the lists are English. Compare slices with each other; do not read a rate as harm.",
        "Synthetic texts stand beside all originals of their score levels, those included whose rewrite was dropped. "
        "What failed verification is in no phrase rate.",
        f"The synthetic texts were written by {writer}." if writer else "No writer is named in the recipe.",
    ]
