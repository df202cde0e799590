"""Markdown, HTML and diff: hostile names stay text, nothing is loaded from elsewhere, the numbers are the card's."""

import html.parser
import json
import re
from pathlib import Path

import pytest
import yaml

from classifiers.errors import DataError
from pipeline.report import Tally, build_card, diff_cards, read_card
from pipeline.report.html import bar, bar_scale
from pipeline.report.markdown import escape

HOSTILE = "<script>alert(1)</script>|\"'><img src=x onerror=y>\n# [a](javascript:b) $x^2$ `c` {{ 7*7 }} @you https://e.example"


class Elements(html.parser.HTMLParser):
    """Collects the tags, their attributes, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile_run(make_run) -> Path:
    run = make_run("hostile", documents=40, shares={HOSTILE: (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)})
    tally = Tally()
    tally.add("original", HOSTILE, 3, 50, "a homicide", language=HOSTILE)
    (run / "card_counts" / "00009.json").write_bytes(tally.to_json())
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["sources"][0]["licence"] = recipe["synthesis"]["llm"]["model"] = recipe["name"] = HOSTILE
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    manifest = run / "manifests" / "verify-rephrased" / "00000.json"
    rows = {"in": 10, "kept": 1, "dropped": {HOSTILE: 9}, "quarantined": {}}
    metrics = {"yield_by_style": {HOSTILE: [1, 10]}}
    manifest.write_text(json.dumps({"rows": rows, "metrics": metrics}))
    return run


def test_hostile_text_stays_text_in_html(hostile_run: Path) -> None:
    build_card(hostile_run)
    page = Elements((hostile_run / "report" / "card.html").read_text())
    assert not {tag for tag, _ in page.tags} & {"script", "img", "a", "iframe", "link", "object", "svg"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text


def test_hostile_text_stays_text_in_markdown(hostile_run: Path) -> None:
    build_card(hostile_run)
    card = (hostile_run / "report" / "card.md").read_text()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    meta = yaml.safe_load(front)
    assert meta["pretty_name"] == HOSTILE and meta["license"] == "other" and "en" in meta["language"]
    assert "<" not in body and "://" not in body and "javascript:" not in body and "@you" not in body
    for line in body.splitlines():
        assert not line.startswith("# ") or "Data Safety Report Card" in line
    widths: dict[str, set[int]] = {}
    heading = ""
    for line in body.splitlines():
        heading = line if line.startswith("#") else heading
        if line.startswith("|"):
            widths.setdefault(heading, set()).add(len(re.findall(r"(?<!\\)\|", line)))
    assert all(len(cells) == 1 for cells in widths.values()), "a hostile name opened a column"


def test_escape() -> None:
    assert escape("a|b *c* _d_\n<e> & www.f") == r"a\|b \*c\* \_d\_ &lt;e&gt; &amp; www&#46;f"


def test_page_loads_nothing_and_fits_a_phone(finished_run: Path) -> None:
    build_card(finished_run)
    page = (finished_run / "report" / "card.html").read_text()
    assert not re.search(r"https?:|url\(|@import|src=", page)
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    tables = page.count("<table")
    assert tables and page.count('<div class="scroll"><table') == tables
    assert len(page) < 150_000


def test_html_and_markdown_show_the_numbers_of_the_card(finished_run: Path) -> None:
    card = build_card(finished_run)
    page = (finished_run / "report" / "card.html").read_text()
    markdown = (finished_run / "report" / "card.md").read_text()
    unsafe = card["headline"]["unsafe"]["value"]
    for shown in (page, markdown):
        assert f"{unsafe * 100:.1f} %" in shown and f"{card['headline']['documents']:,}" in shown
        assert card["made"]["recipe_sha256"] in shown
        for title in card["categories"].values():
            assert title in shown


def test_bars_keep_their_proportions_and_cut_only_whiskers() -> None:
    wide = {"value": 10.0, "low": 1.0, "high": 400.0}
    narrow = {"value": 5.0, "low": 4.0, "high": 6.0}
    scale = bar_scale([{"bars": [{"rate": wide}, {"rate": narrow}, {"rate": None}]}])
    assert scale == 16.0
    assert bar(wide, scale) == {"width": 62.5, "left": 6.25, "span": 93.75}
    assert bar(narrow, scale)["width"] == 31.25
    assert bar({"value": 0.0, "low": 0.0, "high": 0.0}, bar_scale([])) == {"width": 0.0, "left": 0.0, "span": 0.0}


def test_diff_says_what_rose_and_fell_and_only_where_intervals_are_apart(make_run) -> None:
    safe = make_run("safe", documents=400, shares={"web": (0.95, 0.02, 0.01, 0.01, 0.005, 0.005)})
    unsafe = make_run("unsafe", documents=400, shares={"web": (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)}, verified=0.3)
    card_a, card_b = build_card(safe), build_card(unsafe)
    lines = {line.split("  ")[0].strip(): line for line in diff_cards(card_a, card_b).splitlines()}
    assert lines["flagged unsafe (score >= 1)"].endswith("higher") and lines["score 0"].endswith("lower")
    assert lines["yield, rephrased"].endswith("lower")
    written, read = diff_cards(card_a, card_b), diff_cards(read_card(safe), read_card(unsafe))
    assert "all categories" in written and written == read
    same = diff_cards(card_a, card_a)
    assert "higher" not in same and "lower" not in same and "not apart" in same


def test_diff_of_a_card_without_counts_and_of_other_lists(finished_run: Path, make_run) -> None:
    card = build_card(finished_run)
    bare = {
        **card,
        "histogram": None,
        "phrase_rates": None,
        "phrase_lists_sha256": None,
        "synthetic": {},
        "warnings": ["W"],
    }
    bare["headline"] = {**card["headline"], "documents": None, "tokens": None, "unsafe": None}
    text = diff_cards(card, bare)
    assert "cannot be compared" in text and "B: W" in text


def test_read_card_from_run_or_file_and_its_errors(finished_run: Path, tmp_path: Path) -> None:
    card = build_card(finished_run)
    assert read_card(finished_run)["name"] == card["name"]
    assert read_card(finished_run / "report" / "card.json")["format"] == "safetrove-card"
    with pytest.raises(DataError, match="build it first with `safetrove card"):
        read_card(tmp_path)
    other = tmp_path / "other.json"
    for content, message in (("{", "not a card"), ("[]", "not a Data Safety Report Card")):
        other.write_text(content)
        with pytest.raises(DataError, match=message):
            read_card(other)
