"""The shipped texts: readable, of known categories, and none in two places."""

import json
from collections import Counter
from itertools import combinations

import pytest

from classifiers.rubric import UNSAFE_CATEGORY_NAMES
from finetune.chat_data import read_chats
from tests.conftest import ROOT

DATA = ROOT / "finetune" / "data"
FILES = sorted(DATA.glob("*.jsonl"))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def request_of(row):
    return " ".join((row.get("prompt") or row["messages"][0]["content"]).lower().split())


def test_every_category_has_refusals_and_held_out_requests():
    for name, least in (("refusal_dialogues", 300), ("held_out_requests", 100), ("direction_requests", 100)):
        counts = Counter(row["category"] for row in rows(DATA / f"{name}.jsonl"))
        assert set(counts) == set(UNSAFE_CATEGORY_NAMES) and counts.total() >= least and min(counts.values()) >= 4
    for name in ("harmless_dialogues", "held_out_harmless", "direction_harmless"):
        assert {row["category"] for row in rows(DATA / f"{name}.jsonl")} == {"none"}


def test_dialogues_read_as_chats():
    for name in ("refusal_dialogues", "harmless_dialogues"):
        chats = read_chats(DATA / f"{name}.jsonl")
        assert len(chats) == len(rows(DATA / f"{name}.jsonl"))


def test_no_request_stands_twice():
    ids = Counter(row["id"] for path in FILES for row in rows(path))
    assert max(ids.values()) == 1
    requests = {path.stem: [request_of(row) for row in rows(path)] for path in FILES}
    assert all(len(set(each)) == len(each) for each in requests.values())
    for (one, first), (other, second) in combinations(requests.items(), 2):
        assert not set(first) & set(second), f"{one} and {other} share a request"


def test_no_prompt_of_an_evaluation_is_among_them():
    benchmarks = ROOT.parent / "shared" / "data" / "benchmarks"
    if not benchmarks.is_dir():
        pytest.skip("no local copies of the suites")
    from pipeline.ingest.decontamination import Decontaminator, read_suite
    from pipeline.recipe import Suite

    suites = [Suite(name=p.stem, path=str(p), column="instruction") for p in sorted(benchmarks.glob("*.json"))]
    suites += [Suite(name=p.stem, path=str(p), column="prompt") for p in sorted(benchmarks.glob("*.csv"))]
    decontaminator = Decontaminator([(suite.name, prompt) for suite in suites for prompt in read_suite(suite)], 8)
    for path in FILES:
        for row in rows(path):
            assert decontaminator.find(request_of(row)) is None, row["id"]
