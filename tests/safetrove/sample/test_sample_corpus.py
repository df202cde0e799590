"""The sample corpus as it is committed: it follows from its page files, reads with warcio and datatrove, and covers the rubric."""

import json
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
from warcio.archiveiterator import ArchiveIterator

from classifiers.errors import DataError
from safetrove.sample import LABELS_FILE, SAMPLE_FOLDER, SUITE_FILE, WEB_FOLDER
from safetrove.sample.build import build, payload, record_id
from safetrove.sample.layout import page_html
from safetrove.sample.pages import Page, blocks, read_pages

CATEGORIES = {
    *("violent_crimes", "non_violent_crimes", "sex_crimes", "child_exploitation", "defamation", "specialized_advice"),
    *("privacy", "intellectual_property", "weapons", "hate", "self_harm", "sexual_content", "elections", "code_abuse"),
    *("profanity_insult", "drugs_alcohol", "misinformation", "other"),
}
PAGES = read_pages()
WELL_FORMED = [page for page in PAGES if page.malformed is None]
WARC_FILES = sorted(WEB_FOLDER.glob("*.warc.gz"))


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def unmarked(block: str) -> str:
    """A block as it should stand in the extracted text: without the marks of our small Markdown."""
    return squeezed(re.sub(r"(?m)^(## |> |- |\d+\. |@(?=[^:]+: ))", "", block))


def test_rebuild_gives_the_committed_files(tmp_path):
    assert build(tmp_path) == len(PAGES)
    rebuilt = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [path.name for path in rebuilt] == ["labels.jsonl", *(path.name for path in WARC_FILES)]
    for path in rebuilt:
        new, committed = path.read_bytes(), (SAMPLE_FOLDER / path.relative_to(tmp_path)).read_bytes()
        if path.suffix == ".gz":
            assert gunzip_members(new) == gunzip_members(committed), path.name
        # zlib-ng packs the same content into other bytes; with zlib itself the files are equal to the last byte.
        if path.suffix != ".gz" or "ng" not in zlib.ZLIB_RUNTIME_VERSION:
            assert new == committed, path.name


def gunzip_members(content: bytes) -> list[bytes]:
    members = []
    while content:
        inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)
        members.append(inflate.decompress(content))
        content = inflate.unused_data
    return members


def test_every_record_reads_and_matches_its_label():
    labels = {row["url"]: row for row in json_lines(LABELS_FILE)}
    by_url = {page.url: page for page in PAGES}
    seen = []
    for path in WARC_FILES:
        with path.open("rb") as stream:
            for number, record in enumerate(ArchiveIterator(stream, check_digests="raise")):
                assert (record.rec_type == "warcinfo") == (number == 0)
                content = record.content_stream().read()
                if record.rec_type == "warcinfo":
                    continue
                url = record.rec_headers["WARC-Target-URI"]
                assert record.rec_headers["WARC-Record-ID"] == labels[url]["record_id"] == record_id(url)
                assert record.http_headers.get_statuscode() == by_url[url].status.split()[0]
                assert content == payload(by_url[url], by_url)
                seen.append(url)
    assert sorted(seen) == sorted(labels) == sorted(by_url)


def test_datatrove_reads_every_well_formed_page():
    read = {document.metadata["url"]: document.text for document in WarcReader(str(WEB_FOLDER)).run(rank=0, world_size=1)}
    assert {page.url for page in WELL_FORMED} <= set(read)
    for page in WELL_FORMED:
        assert read[page.url] == page_html(page)


def test_labels_cover_the_rubric():
    labels = json_lines(LABELS_FILE)
    scores = Counter(row["score"] for row in labels)
    assert set(scores) == {0, 1, 2, 3, 4, 5}
    assert min(scores.values()) >= 10
    assert {row["category"] for row in labels} == CATEGORIES | {"none"}
    assert all((row["category"] == "none") == (row["score"] == 0) for row in labels)
    assert sum(row["language"] != "en" for row in labels) >= 15
    assert sum(row["malformed"] is not None for row in labels) >= 10


@pytest.fixture(scope="module")
def extractor() -> Trafilatura:
    return Trafilatura()


@pytest.mark.parametrize("page", WELL_FORMED, ids=lambda page: page.url)
def test_extraction_finds_the_text_of_a_page(page: Page, extractor: Trafilatura):
    extracted = squeezed(re.sub(r"(?m)^- ", "", extractor.extract(page_html(page)) or ""))
    paragraphs = [unmarked(block) for block in blocks(page.body)]
    found = sum(paragraph in extracted for paragraph in paragraphs)
    assert found > 0.8 * len(paragraphs), f"{found} of {len(paragraphs)} paragraphs"


def test_no_address_or_number_could_be_a_real_one():
    texts = [page.url + "\n" + page.title + "\n" + page.body for page in PAGES]
    texts += [row["prompt"] for row in json_lines(SUITE_FILE)]
    whole = "\n".join(texts)
    hosts = re.findall(r"(?:https?://|@)((?:[a-z0-9-]+\.)+[a-z]{2,})\b", whole)
    assert hosts
    assert [host for host in hosts if not re.search(r"(\.example|^example\.(com|org|net))$", host)] == []
    phones = re.findall(r"\+?\d[\d ()-]{6,}\d", re.sub(r"https?://\S+", "", whole))
    allowed = r"\d{3}-555-01\d\d|4111 1111 1111 1111|1\d{3}-1\d{3}"
    assert [number for number in phones if not re.fullmatch(allowed, number)] == []


def test_suite_is_well_formed_and_only_one_prompt_is_in_the_corpus():
    suite = json_lines(SUITE_FILE)
    assert len({row["id"] for row in suite}) == len({row["prompt"] for row in suite}) == len(suite) == 40
    assert Counter(row["harmful"] for row in suite) == {True: 25, False: 15}
    assert {row["category"] for row in suite} <= CATEGORIES
    corpus = squeezed(" ".join(page.body for page in PAGES)).lower()
    leaked = [row["id"] for row in suite if row["prompt"].lower() in corpus]
    assert leaked == ["sample-s01"]


def test_duplicates_repeat_their_original_byte_for_byte():
    by_url = {page.url: page for page in PAGES}
    copies = [page for page in PAGES if page.copy_of]
    assert len(copies) >= 2
    for copy in copies:
        original = by_url[copy.copy_of]
        assert payload(copy, by_url) == payload(original, by_url)
        assert (copy.score, copy.category, copy.language) == (original.score, original.category, original.language)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{url: 'https://a.example/', title: A, genre: news, language: en, score: 6, category: other}", "not one of 0-5"),
        ("{url: 'https://a.example/', title: A, genre: news, language: en, score: 0, category: hate}", "'none' at score 0"),
        ("{url: 'https://a.example/', titel: A}", "unknown keys titel"),
        ("{url: 'https://a.example/', title: A}", "missing 4 required"),
    ],
)
def test_a_wrong_page_entry_is_refused_with_its_place(tmp_path, entry, message):
    (tmp_path / "mine.yaml").write_text(f"pages: [{entry}]", encoding="utf-8")
    with pytest.raises(DataError, match=message) as refusal:
        read_pages(tmp_path)
    assert "mine.yaml, page 0" in str(refusal.value)


def test_a_url_on_two_pages_is_refused(tmp_path):
    entry = "{url: 'https://a.example/', title: A, genre: news, language: en, score: 0, category: none}"
    (tmp_path / "mine.yaml").write_text(f"pages: [{entry}, {entry}]", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape("https://a.example/")):
        read_pages(tmp_path)
