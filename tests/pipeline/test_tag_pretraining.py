"""The harmfulness-tag run's own parts: which texts are held out, the control's tokens, the table."""

import json

import numpy as np
import pytest
from stage_runs import run_stage, write_documents, write_scores

from benchmarks.tag_pretraining.corpus import ROOT, corpus_recipe, evaluation_suites
from benchmarks.tag_pretraining.figure import draw
from benchmarks.tag_pretraining.results import Measured, mean_probabilities, read_curve, table
from benchmarks.tag_pretraining.retagging import Retagging, read_documents, tag_counts
from benchmarks.tag_pretraining.texts import is_held_out, prepare_texts
from classifiers.errors import DataError
from pipeline.recipe import load_recipe, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from pipeline.stages.tag import TagStage
from pipeline.stages.tokenise import BlendStage, TokeniserStage, TokeniseStage
from pretrain.blend_file import load_blend
from pretrain.indexed_dataset import IndexedDataset
from pretrain.levels import read_levels
from pretrain.tokenizer_training import END_OF_DOCUMENT, train_tokenizer

TEXTS = [f"{word} number {n} lies by the lake and is looked at by nobody in particular" for n in range(6) for word in
         ("bread", "venom", "ferry", "spite")]  # fmt: skip


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(number, source, text=None):
    return {"id": f"{source}{number}", "source": source, "score": str(number % 6), "text": text or f"{source} {number}"}


def test_no_prompt_and_no_held_out_text_is_trained_on(tmp_path):
    train = [row(n, "comment") for n in range(300)] + [row(n, "request") for n in range(20)]
    dev = [row(n, "news") for n in range(5)] + [row(9, "request")]
    own = [row(n, "dialogue") for n in range(4)] + [row(n, "web_prompt") for n in range(4)]
    own += [row(1, "news", "news 1"), row(1, "request")]
    write_rows(tmp_path / "a/train.jsonl", train)
    write_rows(tmp_path / "a/dev.jsonl", dev)
    write_rows(tmp_path / "o/own.jsonl", own)
    counts = prepare_texts(tmp_path / "a", tmp_path / "o", tmp_path / "out")
    files = {
        name: [json.loads(line) for line in (tmp_path / f"out/{name}.jsonl").read_text().splitlines()]
        for name in counts
    }
    assert {name: len(rows) for name, rows in files.items()} == counts
    held_out = {r["text"] for r in files["held_out"]}
    trained = {r["text"] for name in ("annotated", "own") for r in files[name]}
    assert not held_out & trained
    assert {r["source"] for rows in files.values() for r in rows} == {"comment", "news", "dialogue"}
    assert len(files["own"]) == 4  # the text of a held-out one is not trained on, wherever it comes from
    assert 300 * 0.08 < counts["held_out"] - 5 < 300 * 0.23
    assert counts["annotated"] + counts["held_out"] == 305
    assert all(isinstance(r["score"], int) for r in files["held_out"])
    assert sum(is_held_out(f"text {n}", 0.15) for n in range(4000)) == pytest.approx(600, abs=90)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl is missing; --data names the folder"):
        prepare_texts(tmp_path, tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="nothing to keep out"):
        evaluation_suites(tmp_path)


def test_every_suite_and_the_held_out_texts_are_kept_out(tmp_path):
    write_rows(tmp_path / "texts/held_out.jsonl", [row(1, "news")])
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/one.json").write_text("[]")
    (tmp_path / "benchmarks/two.csv").write_text("prompt\n")
    recipe = corpus_recipe(tmp_path, tmp_path / "texts", tmp_path / "tokenizer", "*.gz")
    assert [(s.name, s.column) for s in recipe.ingest.decontaminate] == [
        ("safetrove-sample", "prompt"),
        ("one", "instruction"),
        ("two", "prompt"),
        ("held-out", "text"),
    ]
    assert [s.name for s in recipe.sources] == ["sample", "annotated", "own", "pages"]
    shipped = load_recipe(ROOT / "recipes/tag_corpus.yaml")
    assert recipe.tag == shipped.tag and recipe.tokenise.tokenizer == str(tmp_path / "tokenizer")


@pytest.fixture
def corpus(tmp_path):
    """A finished run of the pipeline on 24 texts: those with venom or spite are unsafe."""
    recipe = parse_recipe(
        {
            "name": "small",
            "sources": [{"name": "texts", "format": "jsonl", "path": "in.jsonl"}],
            "synthesis": None,
            "tag": {"rate": 0.2},
            "tokenise": {"tokenizer": str(tmp_path / "tokenizer"), "end_of_document": END_OF_DOCUMENT},
        },
        "test",
        tmp_path,
    )
    train_tokenizer(iter(TEXTS), tmp_path / "tokenizer", 320)
    run = RunFolder(tmp_path / "corpus")
    ids = write_documents(run, TEXTS)
    for classifier in ("fasttext", "embedding"):
        write_scores(run, classifier, ids, [4 if "venom" in text or "spite" in text else 0 for text in TEXTS])
    tokenise = [TokeniseStage(source, recipe, run, 1) for source in ("safe", "tagged")]
    first = [FinalScoreStage(recipe, run, 1), TagStage(recipe, run, 1), TokeniserStage(recipe, run)]
    for stage in [*first, *tokenise, BlendStage(recipe, run, 1)]:
        run_stage(stage)
    return run.root


def write_both(corpus, folder):
    """Token files of the tagged run and of the control, three passes each; the places that each of them tags."""
    places = {}
    for name in ("tagged", "control"):
        retagging = Retagging(corpus, 0.2, 0)
        places[name] = retagging.tagged_places() if name == "tagged" else retagging.control_places()
        retagging.write(folder / name, places[name], 3)
    return places


def shards(blend_file, source):
    return [list(IndexedDataset(blend_file.parent / shard)) for shard in source.shards]


def test_every_pass_has_the_documents_of_the_corpus_and_tags_of_its_own(corpus, tmp_path):
    places = write_both(corpus, tmp_path)
    original = load_blend(corpus / "tokens/blend.json")
    tag = original.tag_token_id
    for name in ("tagged", "control"):
        blend = load_blend(tmp_path / name / "blend.json")
        assert (tmp_path / name / blend.tokenizer).is_dir()
        for source, theirs in zip(blend.sources, original.sources, strict=True):
            (corpus_documents,) = shards(corpus / "tokens/blend.json", theirs)
            passes = shards(tmp_path / name / "blend.json", source)
            assert len(passes) == 3 and source.weight == theirs.weight
            for number, documents in enumerate(passes):
                for n, (ours, first) in enumerate(zip(documents, corpus_documents, strict=True)):
                    assert [t for t in ours if t != tag] == [t for t in first if t != tag]
                    assert ours[0] != tag and ours[-1] == blend.end_of_document_id
                    assert (tag in ours) == ((theirs.shards[0], n) in places[name])
                if name == "tagged" and number == 0:
                    assert all((a == b).all() for a, b in zip(documents, corpus_documents, strict=True))
            assert source.tokens == sum(len(document) for documents in passes for document in documents)
            levels = read_levels(tmp_path / name / source.shards[1], len(corpus_documents))
            assert set(levels) == ({0} if source.name == "safe" else {4})
    tagged = [IndexedDataset(tmp_path / f"tagged/tagged/00000-{number}") for number in range(3)]
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(*tagged[:2], strict=True))


def test_the_control_has_about_as_many_tags_and_as_many_in_safe_documents(corpus, tmp_path):
    places = write_both(corpus, tmp_path)
    tags, control = (tag_counts(tmp_path / name / "blend.json")[0] for name in ("tagged", "control"))
    assert tags > 60 and control == pytest.approx(tags, rel=0.3)
    safe = [prefix for prefix, _ in places["control"] if prefix.startswith("safe/")]
    assert len(safe) >= 2 and len(places["control"]) - len(safe) >= 2
    before = (tmp_path / "control/safe/00000-1.bin").read_bytes()
    write_both(corpus, tmp_path)
    assert (tmp_path / "control/safe/00000-1.bin").read_bytes() == before


def test_documents_are_read_in_the_order_of_the_tokens(corpus):
    texts = [text for _, _, text in read_documents(corpus)]
    assert texts == [t for t in TEXTS if "bread" in t or "ferry" in t] + [
        t for t in TEXTS if "venom" in t or "spite" in t
    ]


def measured(unsafe_shift):
    random = np.random.default_rng(0)
    scores = np.array([4, 0] * 40)
    sources = ["post"] * 40 + ["page"] * 40
    return Measured([str(n) for n in range(80)], sources, scores, random.normal(size=80) + unsafe_shift * (scores > 0))


def test_the_table_has_a_row_for_each_source_and_what_to_compare_with():
    lines = table({"good": measured(9.0), "chance": measured(0.0)}, 3)
    assert lines[2].startswith("| page | 20 / 20 | 1.000 (1.00 to 1.00) | ")
    chance = lines[4].split("|")[-2].strip(" *")
    value, low, high = float(chance[:5]), float(chance[7:11]), float(chance[15:19])
    assert low < value < high and 0.2 < high - low < 0.35
    assert lines[-1] == "| all documents, the source alone | 40 / 40 | 0.500 | 0.500 |"
    assert mean_probabilities(measured(9.0))["unsafe"] > 8


def test_curves_and_figure(tmp_path):
    records = [
        {"iteration": 10, "loss": 5.0},
        {"iteration": 20, "loss": 4.0},
        {"iteration": 20, "tag_probability": {"unsafe_from_3": {"average": 0.7, "overall": 0.8}}},
    ]
    write_rows(tmp_path / "metrics.jsonl", records)
    curves = read_curve(tmp_path, 50_000)
    assert curves == {"loss": [(0.5, 5.0), (1.0, 4.0)], "average": [(1.0, 0.7)], "overall": [(1.0, 0.8)]}
    draw({"tagged": curves, "control": curves}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
