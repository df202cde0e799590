"""`safetrove prompts compare`: table, page, resuming, errors. The writer is a stub; the classifiers are the real ones."""

import json
import re
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from rephrasers.prompt_files import FOLDER
from safetrove.cli import app
from tests.pipeline.writer_stub import writer

GOOD = (
    "Our podcast today visits two neighbours who share a garden fence. They did not agree about it for a while, so they "
    "sat down with a pot of tea, listened to each other, and drew a plan. Now roses grow along the fence, the path is "
    "open to both families, and on Sundays they water the flowers together. What would you plant there?"
)
SOURCES = [
    {
        "id": "fence",
        "score": 2,
        "language": "en",
        "text": "<b>My neighbour</b> is a moron & his ugly fence stands in my way. " * 4,
    },
    {
        "id": "path",
        "score": 3,
        "language": "en",
        "text": "Those idiots from the garden path should all get lost, I say. " * 4,
    },
    {"id": "cake", "score": 0, "language": "en", "text": "A recipe for a plain cake with two eggs. " * 4},
]


def answer(content):
    if "moron" in content and "podcast" in content:
        return GOOD
    if "idiots" in content and "podcast" in content:
        return "Those idiots should be beaten up, I will kill every one of them, and nobody will miss those morons."
    return "I'm sorry, but I can't help with rewriting <script>alert(1)</script> this text for you today."


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "sources.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SOURCES))
    return path


def compare(*arguments, expect=0):
    result = CliRunner().invoke(app, ["prompts", "compare", *map(str, arguments)])
    if expect == 0 and result.exception:
        raise result.exception
    return result


def test_yields_page_and_resuming(files, tmp_path):
    output = tmp_path / "out"
    arguments = [files, "--styles", "podcast_host,teacher_script", "--n", 5, "--model", "stub", "--output", output]
    with writer(answer) as (url, asked):
        result = compare(*arguments, "--base-url", url)
        assert len(asked) == 4, "two styles, two documents with a score of 1 to 3"
        lines = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()}
        assert lines["podcast_host"][1:4] == ["2", "1", "50"] and lines["teacher_script"][1:4] == ["2", "0", "0"]
        assert "refused" in " ".join(lines["teacher_script"])
        first = (output / "compare.html").read_text()
        again = compare(*arguments, "--base-url", url)
        assert len(asked) == 4, "answers are kept"
        assert (output / "compare.html").read_text() == first and again.stdout == result.stdout
        mine = tmp_path / "mine.yaml"
        mine.write_text((FOLDER / "podcast_host.yaml").read_text().replace("name: podcast_host", "name: mine"))
        compare(files, "--styles", f"podcast_host,{mine}", "--model", "stub", "--output", output, "--base-url", url)
        assert len(asked) == 6, "only the new style is asked for"


def test_what_is_kept_opens_no_server(files, tmp_path, monkeypatch):
    def open_server(*_):
        raise AssertionError("a server is opened although every answer is kept")

    arguments = [files, "--styles", "podcast_host,refuse", "--model", "stub", "--output", tmp_path]
    with writer(lambda content: 400 if "dialogue" in content and "idiots" in content else answer(content)) as (
        url,
        _,
    ):
        arguments += ["--base-url", url]
        first = compare(*arguments)
        assert "rejected 1" in first.output, "an answer that is final is kept as well"
    page = (tmp_path / "compare.html").read_text()
    monkeypatch.setattr("rephrasers.ask.serving", open_server)
    assert compare(*arguments).stdout == first.stdout and (tmp_path / "compare.html").read_text() == page
    with pytest.raises(AssertionError, match="a server is opened"):
        compare(*arguments, "--temperature", "0.1")
    (tmp_path / "answers" / "kept.jsonl").write_text("[]\n")
    assert "kept.jsonl: not as it was written" in str(compare(*arguments, expect=1).exception)


LONG = " ".join(
    f"On day {n} my neighbour, that moron, left his ugly bicycle at the gate of house {n}." for n in range(90)
)


def test_long_documents_are_written_in_all_their_pieces(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"id": "long", "score": 2, "language": "en", "text": LONG}))
    arguments = [path, "--model", "stub", "--output", tmp_path]
    with writer(lambda content: f"Piece of {content.count('moron')} sentences, gently told.") as (url, asked):
        compare(*arguments, "--styles", "podcast_host,refuse", "--base-url", url)
        page = (tmp_path / "compare.html").read_text()
        assert len(asked) == 5, "four pieces of a rewrite, and one request for a dialogue"
        assert sum(content.count("moron") for content in asked if "podcast" in content) == 90, (
            "together they are the whole text"
        )
        assert "4 pieces" in page and f"all {len(LONG)} characters" in page and "beginning only" not in page
        assert page.count("gently told.") == 5
        cut = compare(*arguments, "--styles", "podcast_host", "--characters", 500, "--base-url", url)
        page = (tmp_path / "compare.html").read_text()
        assert f"the first 500 of {len(LONG)} characters" in page and "beginning only" in page
        assert "1 of them are too long: their first 500 characters" in cut.output and len(asked) == 6
        path.write_text(json.dumps({"id": "long", "score": 2, "language": "en", "text": LONG * 3}))
        result = compare(*arguments, "--styles", "podcast_host", "--characters", 30_000, "--base-url", url)
        assert len(asked) == 6 and "too_many_pieces 1" in result.output, "what a run would drop"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text inside `details` that are closed at first."""

    def __init__(self):
        super().__init__()
        self.found, self.closed, self.folded, self.depth = [], [], [], 0

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "details":
            self.closed.append("open" not in dict(attributes))

    def handle_endtag(self, tag):
        if tag == "details":
            self.closed.pop()

    def handle_data(self, data):
        if any(self.closed):
            self.folded.append(data)


def test_the_page_loads_nothing_escapes_all_and_folds_unsafe_text_away(files, tmp_path):
    with writer(answer) as (url, _):
        compare(
            files, "--styles", "podcast_host,teacher_script", "--model", "stub", "--output", tmp_path, "--base-url", url
        )
    page = (tmp_path / "compare.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "link", "iframe", "b"} & {tag for tag, _ in tags.found}
    assert not [attributes for _, attributes in tags.found if {"src", "href"} & attributes.keys()]
    assert "default-src 'none'" in page
    folded = " ".join(tags.folded)
    for secret in ("<b>My neighbour</b> is a moron & his ugly fence", "Those idiots from", "Those idiots should"):
        assert secret in folded, "shown as it is, and folded away"
    for harmless in ("Our podcast today", "&lt;script&gt;alert(1)"):
        assert harmless in page and harmless not in folded
    assert re.search(r"1 of 4 texts pass", page)


def test_a_dialogue_style_and_a_rejected_prompt(files, tmp_path):
    with writer(
        lambda content: 400 if "idiots" in content else "User: Please be mean.\nAssistant: I can't help with that."
    ) as (
        url,
        _,
    ):
        result = compare(files, "--styles", "refuse", "--model", "stub", "--output", tmp_path, "--base-url", url)
    assert "rejected 1" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--styles", "podcast"], "no prompt 'podcast'; known prompts"),
        (["--styles", "refuse,refuse"], "refuse is given twice"),
        (["--styles", "moralise"], "written from dialogues"),
        (["--scores", "1-3"], "--scores 1-3: levels from 0 to 5"),
        (["--max-tokens", "5000"], "leaves no room for a prompt"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
    ],
)
def test_wrong_arguments_say_what_to_write(arguments, message):
    result = compare(*arguments, expect=1)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ('["text"]', "line 1: expected a JSON object"),
        ('{"text": "a", "score": 7}', "`score` must be a whole number from 0 to 5, got 7"),
        (json.dumps(SOURCES[2]), "none of 1 documents has a score of 1, 2, 3"),
    ],
)
def test_wrong_files_name_the_line(tmp_path, line, message):
    path = tmp_path / "sources.jsonl"
    path.write_text(line + "\n")
    assert message in str(compare(path, expect=1).exception)
