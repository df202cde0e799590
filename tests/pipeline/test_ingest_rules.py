"""Ids, decoding, decontamination, exact duplicates: the rules of ingest, each on its own."""

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.errors import RecipeError
from pipeline.dedup.signatures import DUPLICATE, DUPLICATE_ID, SignatureCollector, find_duplicates, findings_of_shard
from pipeline.ingest.decontamination import Decontaminator, read_suite
from pipeline.ingest.documents import content_sha256, document_id, normalise_text
from pipeline.ingest.extraction import decode_html, is_html
from pipeline.recipe import Suite


def test_ids_depend_on_source_and_locator_alone():
    assert document_id("a", "<urn:1>") == document_id("a", "<urn:1>")
    assert len({document_id(s, r) for s in "ab" for r in ("x", "y")}) == 4
    assert len(document_id("a", "x")) == 32
    assert document_id("ab", "c") != document_id("a", "bc")


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert "\r" not in once and "\0" not in once
    once.encode()


@pytest.mark.parametrize(
    ("payload", "content_type", "expected"),
    [
        ("<p>é</p>".encode(), "text/html", "<p>é</p>"),
        ("<p>é à</p>".encode("windows-1252"), "text/html; charset=windows-1252", "<p>é à</p>"),
        (
            '<meta charset="iso-8859-2"><p>łódź</p>'.encode("iso-8859-2"),
            "text/html",
            '<meta charset="iso-8859-2"><p>łódź</p>',
        ),
        (b"\x00\x01\x02\x03" * 50, "text/html", None),
    ],
)
def test_decoding(payload, content_type, expected):
    assert decode_html(payload, content_type) == expected


@given(st.binary(max_size=500), st.text(max_size=30))
def test_decoding_never_raises(payload, content_type):
    decode_html(payload, content_type)
    is_html(content_type, payload)


PROMPT = "Explain in plain words how a very tall bridge is painted without stopping the trains"


def test_a_prompt_inside_a_page_is_found_whatever_its_case_and_punctuation():
    find = Decontaminator([("suite", PROMPT)], 8).find
    assert find(f"Before. {PROMPT.upper()}!!! After.") == "suite"
    assert find("… how a, very tall: bridge is (painted) without stopping …") == "suite"
    assert find("how a very tall bridge is built") is None


def test_a_short_prompt_matches_whole_and_at_word_boundaries_only():
    find = Decontaminator([("suite", "paint the tall bridge")], 8).find
    assert find("They paint the tall bridge.") == "suite"
    assert find("They repaint the tall bridges.") is None


def test_a_suite_file_with_another_column_is_refused(tmp_path):
    path = tmp_path / "suite.jsonl"
    path.write_text('{"question": "x"}\n')
    with pytest.raises(RecipeError, match="column 'prompt'"):
        read_suite(Suite(name="s", path=str(path)))
    assert read_suite(Suite(name="s", path=str(path), column="question")) == ["x"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("suite.csv", "prompt\nna\xefve words\n".encode("latin-1"), "as UTF-8 .UnicodeDecodeError"),
        ("suite.csv", b"prompt\n" + b"word " * 30_000, "field larger than field limit"),
        ("suite.json", b"[" * 10, "JSONDecodeError"),
    ],
    ids=["latin-1", "long field", "broken off"],
)
def test_a_suite_that_cannot_be_read_is_named(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=rf"suite s: .*{re.escape(name)}: expected rows .*{told}"):
        read_suite(Suite(name="s", path=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "content"), [("suite.csv", "prompt\nfour words\n"), ("suite.json", '[{"prompt": "four words"}]')]
)
def test_a_mark_of_the_byte_order_is_no_part_of_a_suite(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_suite(Suite(name="s", path=str(tmp_path / name))) == ["four words"]


def _survivors(documents, shards, buckets):
    """Ids that stay, and ids that are quarantined, for documents dealt out to shards."""
    arrays = []
    for shard in shards:
        collector = SignatureCollector()
        for index in shard:
            collector.add(documents[index][0], content_sha256(documents[index][1]))
        arrays.append(collector.sorted_array())
    stay, conflict = [], []
    for number, shard in enumerate(shards):
        found: dict[int, int] = {}
        for bucket in range(buckets):
            findings = find_duplicates(enumerate(arrays), bucket, buckets)
            for row, kind in findings_of_shard(findings, number).items():
                found[row] = max(kind, found.get(row, DUPLICATE))
        stay += [documents[i] for row, i in enumerate(shard) if row not in found]
        conflict += [documents[i][0] for row, i in enumerate(shard) if found.get(row) == DUPLICATE_ID]
    return sorted(stay), sorted(conflict)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abcde")), max_size=30), st.integers(1, 4), st.integers(0, 9)
)
def test_who_stays_does_not_depend_on_the_sharding(pairs, buckets, seed):
    documents = [(document_id("s", str(identifier)), text) for identifier, text in pairs]
    order = list(range(len(documents)))
    one = _survivors(documents, [order], 1)
    random.Random(seed).shuffle(order)
    many = _survivors(documents, [order[0::3], order[1::3], order[2::3]], buckets)
    assert one == many
    contents: dict[str, set[str]] = {}
    for identifier, text in documents:
        contents.setdefault(identifier, set()).add(text)
    conflicting = {identifier for identifier, texts in contents.items() if len(texts) > 1}
    assert set(one[1]) == conflicting
    first = {text: min(i for i, t in documents if t == text) for _, text in documents}
    assert one[0] == sorted((i, text) for text, i in first.items() if i not in conflicting)


def test_an_empty_run_has_no_duplicates():
    assert len(find_duplicates([], 0, 1)) == 0
    assert len(find_duplicates([(0, SignatureCollector().sorted_array())], 0, 1)) == 0
    assert np.dtype(SignatureCollector().sorted_array().dtype).itemsize == 36
