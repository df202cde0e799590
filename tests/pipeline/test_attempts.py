"""The rounds of a draft stage by themselves: order, attempts, what is dropped on the way, nothing asked without need."""

import pytest
from datatrove.data import Document

from pipeline.stages.attempts import UNANSWERED, Attempts
from rephrasers.verify import Verdict


def run_attempts(folder, number, last, good_at, dropped=(), unanswered=()):
    """Documents 0 ... number-1; document n passes at attempt good_at(n). dropped, unanswered: (document, attempt)."""
    asked, judged = [], []

    def ask(attempt, documents, rank):
        for document in list(documents):
            asked.append((document.id, attempt))
            if (document.id, attempt) in dropped:
                continue
            document.metadata |= {"prompt": [f"style-{attempt}", 1, "hash"]}
            if (document.id, attempt) in unanswered:
                document.metadata["answer_error"] = "timeout: 3 s"
            yield document

    def row_of(attempt, document):
        return {"id": f"draft-{document.id}", "text": f"{document.id}/{attempt}", "style": f"style-{attempt}",
                "attempt": attempt, "attempt_seed": 10 + attempt}  # fmt: skip

    def verdicts(pairs):
        judged.extend((document.id, row["attempt"]) for document, row in pairs)
        assert all(document.text == f"text {document.id}" for document, _ in pairs)
        passed = [row["attempt"] >= good_at(int(document.id)) for document, row in pairs]
        return [Verdict(good, () if good else ("copied",), 0) for good in passed]

    documents = [Document(text=f"text {n}", id=str(n), metadata={"n": n}) for n in range(number)]
    step = Attempts(last, folder / "rounds", ask, row_of, verdicts)
    return list(step.run(iter(documents))), asked, judged


def test_order_and_attempts_over_several_batches(tmp_path):
    out, asked, _ = run_attempts(tmp_path, 300, 3, lambda n: n % 5 + 1)
    assert [document.id for document in out] == [str(n) for n in range(300)]
    for n, document in enumerate(out):
        attempts = min(n % 5 + 1, 3)
        row = document.metadata["row"]
        assert (row["text"], document.metadata["n"]) == (f"{n}/{attempts}", n)
        failed = [
            {"attempt": a, "style": f"style-{a}", "seed": 10 + a, "reasons": ["copied"]} for a in range(1, attempts)
        ]
        last = {"attempt": attempts, "style": f"style-{attempts}", "seed": 10 + attempts}
        assert row["attempts"] == [*failed, last | {"reasons": None if attempts == 3 else []}]
    assert sorted(asked) == sorted((str(n), a) for n in range(300) for a in range(1, min(n % 5 + 1, 3) + 1))


def test_the_last_round_is_left_to_the_stage_that_verifies(tmp_path):
    _, asked, judged = run_attempts(tmp_path, 10, 2, lambda n: 9)
    assert len(asked) == 20 and all(attempt == 1 for _, attempt in judged)
    _, asked, judged = run_attempts(tmp_path, 10, 1, lambda n: 9)
    assert len(asked) == 10 and judged == []


def test_dropped_in_any_round_and_unanswered(tmp_path):
    out, asked, _ = run_attempts(
        tmp_path, 8, 3, lambda n: 3, dropped={("0", 1), ("3", 2), ("7", 3)}, unanswered={("1", 1), ("5", 2)}
    )
    assert [document.id for document in out] == ["1", "2", "4", "5", "6"]
    first, fifth = out[0].metadata, out[3].metadata
    assert first["row"] is None and first["answer_error"] == "timeout: 3 s" and ("1", 2) not in asked
    assert fifth["row"]["text"] == "5/1" and fifth["answer_error"] is None and ("5", 3) not in asked
    assert fifth["row"]["attempts"][1]["reasons"] == [UNANSWERED]


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_and_one(tmp_path, number):
    out, asked, _ = run_attempts(tmp_path, number, 3, lambda n: 1)
    assert len(out) == len(asked) == number
