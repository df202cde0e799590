"""The scale benchmark: its documents, and its projection to another size, by hand."""

import re

from benchmarks.scale import Copies, Synthesiser, report
from benchmarks.scale_projection import Project, projection

STAGE = {"seconds": 7200.0, "rows": 1000, "bytes": 2_000_000, "files": 20, "tasks": 10}
MEASURED = {
    "documents": 1000, "characters": 400_000, "tokens": 100_000, "shards": 10, "wall_seconds": 50.0, "bytes": 5_000_000,
    "files": 40, "largest_worker_mib": 200.0, "stage_wall_seconds": {"score": 20.0}, "stages": {"score": STAGE, "dedup-find": STAGE | {"tasks": 1, "files": 2}, "report": STAGE | {"tasks": 1, "files": 1, "rows": 0}},
    "plan": {"wall_seconds": 60.0, "bytes": 4_000_000},
}  # fmt: skip


def test_synthetic_documents_are_fixed_by_their_number_and_all_different():
    source, again = Synthesiser(), Synthesiser()
    texts = [source.text(number) for number in range(500)]
    assert texts == [again.text(number) for number in range(500)] and len(set(texts)) == 500
    assert all(len(text) > 40 for text in texts)
    assert Copies(["a", "b"]).text(3) == "Copy 3. b"


def test_projection_by_hand():
    text = projection(MEASURED, Project(tokens=1e9, shards=1000, nodes=2, cores=50, dedup_buckets=10))
    # ten thousand times the tokens: 2 h of core time become 20,000 h; 100 cores; 1,000 tasks
    score = next(line for line in text.splitlines() if line.startswith("| score"))
    assert score == "| score | 20,000.0 | 200.00 | 72,000 s | 0.020 TB | 2,000 |"
    dedup = next(line for line in text.splitlines() if line.startswith("| dedup"))
    assert dedup == "| dedup-find | 20,000.0 | 2000.00 | 7,200,000 s | 0.020 TB | 20 |"
    assert "| report | 2.0 | 2.00 | 7,200 s | 0.000 TB | 1 |" in text
    assert "1e+09 tokens, 4e+09 characters (4.00 a token)" in text and "1e+07 documents" in text
    assert re.search(r"\| all \| 40,002 \| 2202\.0 on 2 nodes of 50 cores \| +\| 0\.04 TB \| 2,021 \|", text)
    assert "1,000 files of one configuration in 2 commits of 500" in text


def test_the_report_compares_with_the_plan():
    shown = report([MEASURED])
    assert "| 1,000 | 50 | 20 | 200 MiB | 5.0 MB | 40 | 60 (+20%) | 4.0 MB (-20%) |" in shown
    assert "| score | 50 |" in shown
