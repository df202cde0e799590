"""The HTML pages that hold other people's text: whatever stands in it stays text, for a parser and in headless Chromium.

In the browser the pages are opened without their content security policy, so that escaping alone is what holds.
"""

import dataclasses
import html.parser
import shutil
import subprocess

import pytest

from evaluation.comparison.page import render_page as evaluation_html
from evaluation.comparison.rows import comparison_rows, distinct_names
from evaluation.judges.verdict import Verdict
from evaluation.results import Item, Result
from pipeline.prompt_comparison.comparison import Comparison, Rewrite, ShownDocument
from pipeline.prompt_comparison.page import render_page
from pipeline.report.card import card_data
from pipeline.report.html import render_html
from rephrasers.prompt_files import load_prompt

RUN = "document.documentElement.dataset.ran='1'"
PAYLOADS = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</style></title></textarea></details></table><script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f'\'><svg onload="{RUN}"><animate onbegin="{RUN}">',
    f'" autofocus onfocus="{RUN}" tabindex="1" x="',
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f'<a href="javascript:{RUN}">a</a><form action="javascript:{RUN}"><button autofocus>b</button></form>',
    f'<object data="data:text/html,<script>parent.{RUN}</script>"></object>',
    '<link rel=stylesheet href="data:text/css,*{display:none}"><base href=//hostile.example/><meta http-equiv=refresh content=0>',
    f"<!--><script>{RUN}</script>-->",
    f"<![CDATA[<script>{RUN}</script>]]>",
    f"&lt;script&gt;{RUN}&lt;/script&gt; {{{{ 7*7 }}}} {{% raw %}}",
    f"\ufeff<script>{RUN}</script>",
    f"\u202e<script>{RUN}</script>\u2066 txet",
    f"<scr\u200bipt>{RUN}</script>\u2028<script\u2029>{RUN}</script>",
]
HOSTILE = "\n".join(PAYLOADS)
ONE_LINE = " ".join(PAYLOADS)
# What our pages are made of; none of it runs or loads anything.
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "div", "section", "table", "tr", "th",
    "td", "b", "i", "span", "small", "code", "ul", "li", "details", "summary", "form", "fieldset", "legend", "label", "input",
}  # fmt: skip


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def hostile_strings(value):
    """The value with every text in it hostile, names of sources, styles and reasons too; numbers stay."""
    if isinstance(value, str):
        return ONE_LINE
    if isinstance(value, list):
        return [hostile_strings(item) for item in value]
    if isinstance(value, dict):
        return {key: hostile_strings(item) for key, item in value.items()}
    return value


def card_page(finished_run):
    card = card_data(finished_run)
    for key in ("name", "sources", "languages", "warnings", "missing", "limits", "writer"):
        card[key] = hostile_strings(card[key])
    card["missing"] = card["warnings"] = [ONE_LINE]
    card["made"]["settings"] = {ONE_LINE: ONE_LINE}
    card["histogram"]["by_source"] = {ONE_LINE: next(iter(card["histogram"]["by_source"].values()))}
    for row in card["ledger"]:
        row["stage"], row["dropped"], row["quarantined"] = ONE_LINE, {ONE_LINE: 3}, {ONE_LINE: 2}
    for entry in card["synthetic"].values():
        entry["dropped"] = {ONE_LINE: 4}
        entry["by_style"] = {ONE_LINE: {**next(iter(entry["by_style"].values())), "rejected": {ONE_LINE: 1}}}
    for row in card["phrase_rates"]["top_phrases"]["original"]:
        row["phrase"] = ONE_LINE
    return render_html(card), 20


def prompts_page():
    document = ShownDocument(id=HOSTILE, text=HOSTILE, score=0, language=HOSTILE, whole=10**6)
    style = dataclasses.replace(load_prompt("podcast_host"), name=HOSTILE, audience=HOSTILE)
    rewrites = [[Rewrite(HOSTILE, HOSTILE, (HOSTILE,), 1, pieces=2)]]
    return render_page(Comparison(HOSTILE, {HOSTILE: HOSTILE}, [style], [document], rewrites)), 9


def evaluation_page(folder):
    results = []
    for name in ("a", "b"):
        items = [
            Item(
                HOSTILE,
                HOSTILE,
                HOSTILE + kind,
                kind,
                HOSTILE,
                HOSTILE,
                HOSTILE,
                {HOSTILE: Verdict(HOSTILE, reason=HOSTILE)},
            )
            for kind in ("harmful", "benign")
        ]
        judge = {
            "version": 1, "template_sha256": HOSTILE, "model": HOSTILE, "attack_labels": [HOSTILE], "refusal_labels": [],
            "labels": [HOSTILE],
        }  # fmt: skip
        measure = {
            "suite": HOSTILE, "attack": HOSTILE, "judge": HOSTILE, "measure": "attack_success_rate", "value": 1.0, "low": 0.1,
            "high": 1.0, "interval": "wilson", "n": 1, "valid": 1, "invalid": 0, "short_circuited": 0, "worst": 1.0,
        }  # fmt: skip
        suite = {"harmful": 1, "benign": 1, "licence": HOSTILE, "origin": HOSTILE}
        summary = {
            "name": HOSTILE, "model": {"model": HOSTILE}, "decoder": {"decoder": HOSTILE}, "measures": [measure],
            "judges": {HOSTILE: judge}, "suites": {HOSTILE: suite},
        }  # fmt: skip
        results.append(Result(HOSTILE, folder / name, summary, tuple(items)))
    results = distinct_names(results)
    return evaluation_html(results, comparison_rows(results)), 20


@pytest.fixture(params=["card", "prompts", "evaluation"])
def page(request, finished_run, tmp_path):
    """(HTML, at least so often the hostile text is shown on it)."""
    if request.param == "card":
        return card_page(finished_run)
    return prompts_page() if request.param == "prompts" else evaluation_page(tmp_path)


def test_hostile_text_stays_text_for_a_parser(page):
    content, times = page
    parsed = Page(content)
    assert {tag for tag, _ in parsed.tags} <= TAGS
    for tag, attributes in parsed.tags:
        assert not any(
            name.startswith("on") or name in ("href", "src", "srcdoc", "action", "autofocus") for name in attributes
        )
        assert tag != "meta" or attributes.get("http-equiv") in (None, "Content-Security-Policy")
    words = " ".join(parsed.text.split())
    for payload in PAYLOADS:
        assert words.count(" ".join(payload.split())) >= times, payload
    assert "default-src 'none'" in content


def chromium_dom(path):
    """The page's DOM after everything in it has run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    process = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={path.parent / 'profile'}", "--virtual-time-budget=2000",
         "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def without_policy(content):
    head, policy, rest = content.partition('<meta http-equiv="Content-Security-Policy"')
    assert policy
    return head + rest.partition(">")[2]


def test_hostile_text_runs_nothing_in_chromium(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(without_policy(page[0]), encoding="utf-8")
    dom = chromium_dom(path)
    assert "</html>" in dom and 'data-ran="1"' not in dom
    assert not {tag for tag, _ in Page(dom).tags} - TAGS - {"tbody"}


@pytest.mark.parametrize("policy", [False, True])
def test_the_browser_would_have_run_it(finished_run, tmp_path, policy):
    """What these tests look for does happen where a page does not escape, and our pages' policy stops it even there."""
    content = card_page(finished_run)[0].replace("<main>", f"<main>{PAYLOADS[3]}{PAYLOADS[0]}")
    path = tmp_path / "page.html"
    path.write_text(content if policy else without_policy(content), encoding="utf-8")
    assert ('data-ran="1"' in chromium_dom(path)) is not policy
