"""`safetrove classifier evaluate` and `annotate` as a user meets them, on small files of our own sentences."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from classifiers.decision import DECISION_FILE
from classifiers.embedding import SHIPPED_HEAD, EmbeddingClassifier
from classifiers.errors import DataError, IdentityError, ModelError, RecipeError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS
from classifiers.judge_health import golden_texts
from classifiers.training.labels import read_labels
from safetrove.cli import app
from tests.classifiers.small_cascade import build_small_cascade
from tests.pipeline.judge_stub import digit, judging

LABELLED = [
    ("web_page", 0, "none", "The library opens at nine and closes at five."),
    ("web_page", 0, "none", "Knead the dough for ten minutes, then let it rise."),
    ("web_page", 2, "violent_crimes", "The court heard how the two men had robbed the shop and hurt its owner."),
    ("comment", 3, "profanity_insult", "You stupid idiots, you are all damn liars and fools."),
    ("comment", 4, "profanity_insult", "Shut up, you fucking asshole, nobody wants you here."),
    ("comment", 0, "none", "Thank you, the second chapter helped me a lot."),
    ("news", 1, "other", "Health officials are worried about the flu season."),
]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def labels(tmp_path):
    names = ("source", "score", "category", "text")
    return write_rows(tmp_path / "labels.jsonl", [dict(zip(names, row, strict=True)) for row in LABELLED])


def run(*arguments):
    return CliRunner().invoke(app, ["classifier", *map(str, arguments)])


def test_evaluate_prints_tables_and_writes_json_and_figures(labels, tmp_path):
    folder = tmp_path / "out"
    result = run("evaluate", labels, "--train-labels", labels, "--bootstrap", 100, "--output", folder)
    assert result.exit_code == 0, result.output
    for part in (
        "| ensemble",
        "| fastText",
        "| embedding",
        "| source alone",
        "| profanity list",
        "macro F1",
        "Recall@3",
    ):
        assert part in result.stdout
    assert "7 of the texts are also in" in result.stderr
    names = {"evaluation.json", "evaluation.md", "confusion.png", "recall.png"}
    assert {path.name for path in folder.iterdir()} == names
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["rows"] == 7 and report["main"] == "ensemble"
    ensemble, members = report["all"]["ensemble"], [report["all"][name] for name in ("fastText", "embedding")]
    assert ensemble["recall_1"]["value"] >= max(member["recall_1"]["value"] for member in members)
    assert (folder / "evaluation.md").read_text().strip() == result.stdout.strip()
    assert all(text not in (folder / "evaluation.json").read_text() for *_, text in LABELLED)


def test_evaluate_measures_a_cascade_and_a_judge_on_the_same_rows(labels, tmp_path):
    build_small_cascade(tmp_path / "gates", EmbeddingClassifier.load())
    levels = {text: score for _, score, _, text in LABELLED}
    unanswerable = LABELLED[5][3]

    def answer(document, _):
        return 200, digit(0, text="Hard to say.") if document == unanswerable else digit(levels[document])

    with judging(answer) as (url, server):
        judge = ("--judge", "--base-url", f"{url}/v1", "--model", "stub")
        folder = tmp_path / "out"
        cascade = ("--calibration", tmp_path / "gates")
        result = run("evaluate", labels, *judge, *cascade, "--bootstrap", 100, "--output", folder)
    assert result.exit_code == 0, result.output
    assert len(server.requests) == len(LABELLED), "each text once"
    assert server.requests[0]["structured_outputs"] == {"choice": ["0", "1", "2", "3", "4", "5"]}
    report = json.loads((folder / "evaluation.json").read_text())
    names = list(report["all"])
    assert names[-6:] == ["fastText", "embedding", "cascade", "LLM judge", "ensemble", "ensemble + judge"]
    matrix = report["confusion"]["LLM judge"]
    assert [matrix[level][level] for level in range(5)] == [2, 1, 1, 1, 1] and matrix[0][5] == 1
    cascade_1, ensemble_1 = (report["all"][name]["recall_1"]["value"] for name in ("cascade", "ensemble"))
    assert cascade_1 <= ensemble_1
    assert report["main"] == "ensemble + judge" and report["all"]["ensemble + judge"]["recall_1"]["value"] == 1.0
    assert "LLM judge: 1 of 7 texts got no valid answer and count as 5" in result.stdout
    reached = next(line for line in result.stdout.splitlines() if line.startswith("cascade: "))
    assert "of 7 texts reached the encoder" in reached
    assert (folder / "confusion.png").stat().st_size > 10_000


def test_evaluate_refuses_a_cascade_of_other_weights(labels, tmp_path):
    build_small_cascade(tmp_path / "gates", EmbeddingClassifier.load())
    weights = tmp_path / "weights"
    for kind, shipped in (("fasttext", SHIPPED_WEIGHTS), ("embedding", SHIPPED_HEAD.parent)):
        shutil.copytree(shipped, weights / kind)
    thresholds = weights / "fasttext" / DECISION_FILE
    thresholds.write_text(thresholds.read_text() + "\n")
    result = run("evaluate", labels, "--weights", weights, "--calibration", tmp_path / "gates")
    assert isinstance(result.exception, IdentityError) and "other weights of fasttext" in str(result.exception)


def test_evaluate_without_labels_prints_shares(labels):
    result = run("evaluate", labels, "--unlabelled")
    assert result.exit_code == 0 and "scored >= 1" in result.stdout and "| ensemble" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("evaluate", "absent.jsonl"), DataError, "absent.jsonl: no such file"),
        (("evaluate", "LABELS", "--weights", "nowhere"), DataError, "nowhere: no such folder"),
        (("evaluate", "LABELS", "--prevalence-1", "25"), RecipeError, "--prevalence-1 25.0: a share between 0 and 1"),
        (("evaluate", "LABELS", "--base-url", "http://x"), RecipeError, "add --judge"),
        (("evaluate", "LABELS", "--unlabelled", "--judge"), RecipeError, "--unlabelled prints shares only"),
        (("annotate", "LABELS", "--output", "o", "--n", "1", "--base-url", "x"), RecipeError, "--base-url x: "),
    ],
)
def test_wrong_arguments_say_what_to_write(labels, arguments, error, message):
    result = run(*(labels if part == "LABELS" else part for part in arguments))
    assert isinstance(result.exception, error) and message in str(result.exception)


def pool_of(path):
    return write_rows(
        path,
        [
            {"id": f"row-{number}-{word}", "source": source, "text": f"{text} {word}"}
            for word in ("Yesterday.", "Today.")
            for number, (source, _, _, text) in enumerate(LABELLED)
        ],
    )


def answering(levels, broken=()):
    """A judge that knows the golden texts and gives `levels` by the beginning of other texts."""
    golden = {text.text: text.score for text in golden_texts()}

    def answer(document, times):
        level = golden.get(document)
        if level is None:
            level = next(score for *_, score, _, text in levels if document.startswith(text))
        if any(document.startswith(text) for text in broken):
            content = "I would rather talk about the weather."
        else:
            category = "none" if level == 0 else "other"
            content = json.dumps({"score": level, "category": category, "reason": f"level {level}"})
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}

    return answer


def documents_asked(server):
    golden = {text.text for text in golden_texts()}
    return [document for document in server.times if document not in golden]


def test_annotate_labels_resumes_and_asks_nothing_twice(tmp_path):
    pool, output = pool_of(tmp_path / "pool.jsonl"), tmp_path / "labels.jsonl"
    with judging(answering(LABELLED)) as (url, server):
        arguments = ("annotate", pool, "--output", output, "--base-url", f"{url}/v1", "--model", "stub", "--rounds", 2)
        first = run(*arguments, "--n", 6)
        assert first.exit_code == 0, first.output
        assert len(documents_asked(server)) == 6 and "6 of 6 chosen texts are labelled" in first.stdout
        assert server.requests[0]["response_format"]["type"] == "json_schema"
        written = output.read_bytes()
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert {row["round"] for row in rows} == {1, 2}
        assert {row["chosen_by"] for row in rows} == {"uncertain", "stratified", "disagreement"}
        assert all(row["reason"] == f"level {row['score']}" and row["judge"]["model"] == "stub" for row in rows)
        before = len(server.requests)
        again = run(*arguments, "--n", 6)
        assert again.exit_code == 0 and "(0 asked now)" in again.stdout
        assert output.read_bytes() == written and len(server.requests) == before
        changed = run(*arguments[:-4], "--model", "another", "--n", 6)
        assert isinstance(changed.exception, IdentityError) and "give another --output" in str(changed.exception)
    assert {label.score for label in read_labels(output)} <= {0, 1, 2, 3, 4}
    assert {path.name for path in tmp_path.iterdir()} == {"pool.jsonl", "labels.jsonl"}


def test_annotate_without_an_answer_leaves_the_row_out_and_exits_with_1(tmp_path):
    pool, output = pool_of(tmp_path / "pool.jsonl"), tmp_path / "labels.jsonl"
    with judging(answering(LABELLED, broken=[LABELLED[0][3]])) as (url, server):
        arguments = ("annotate", pool, "--output", output, "--base-url", url, "--model", "stub", "--n", 14)
        result = run(*arguments)
        assert result.exit_code == 1 and "without a label: 2 (invalid)" in result.stdout
        assert len(read_labels(output)) == 12
        server.answer = answering(LABELLED)
        asked = len(documents_asked(server))
        mended = run(*arguments)
        assert mended.exit_code == 0 and "(2 asked now)" in mended.stdout
        assert len(documents_asked(server)) == asked == 14
    assert len(read_labels(output)) == 14


def test_annotate_refuses_a_judge_that_fails_the_golden_set(tmp_path):
    pool, output = pool_of(tmp_path / "pool.jsonl"), tmp_path / "labels.jsonl"
    with judging(lambda document, times: answering([("", 4, "other", "")])("", times)) as (url, server):
        arguments = ("annotate", pool, "--output", output, "--base-url", url, "--model", "stub", "--n", 2)
        refused = run(*arguments)
        assert isinstance(refused.exception, ModelError) and "--accept-judge" in str(refused.exception)
        assert documents_asked(server) == [] and not output.exists()
        accepted = run(*arguments, "--accept-judge")
        assert accepted.exit_code == 0 and "fails the golden set" in accepted.stderr
    assert [label.score for label in read_labels(output)] == [4, 4]


def test_a_file_of_somebody_else_is_not_written_over(tmp_path):
    pool, output = pool_of(tmp_path / "pool.jsonl"), tmp_path / "notes.txt"
    output.write_text("my notes\n")
    result = run("annotate", pool, "--output", output, "--n", 1, "--base-url", "http://127.0.0.1:9", "--model", "stub")
    assert isinstance(result.exception, DataError) and "notes.txt, line 1: not a row that this command wrote" in str(
        result.exception
    )
    assert output.read_text() == "my notes\n"
