"""A run folder as the stages leave it: three sources, all levels, texts of every kind; nothing in it is real."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.report.phrase_lists import load_phrase_lists
from pipeline.report.run_summary import STAGES
from pipeline.report.tallies import Tally

SHARDS = 3
LEVEL_SHARES = {
    "commoncrawl-2026": (0.86, 0.055, 0.045, 0.025, 0.01, 0.005),
    "forum-posts": (0.60, 0.16, 0.12, 0.08, 0.03, 0.01),
    "news-wire": (0.78, 0.06, 0.13, 0.025, 0.004, 0.001),
}
HITS_PER_DOCUMENT = (0.004, 0.05, 0.25, 0.6, 1.1, 1.6)
AFTER_REWRITING = {"rephrased": 0.35, "refusal": 0.22, "moral": 0.12}
LANGUAGES = ["en"] * 70 + ["de"] * 8 + ["fr", "es", "ja", "pt", "it", "nl", "pl", "tr", "ru", "zh", "sv"] * 2


def recipe(sources: list[str], model: str = "meta-llama/Llama-3.1-8B-Instruct") -> dict:
    return {
        "name": "web-sample",
        "seed": 7,
        "sources": [{"name": s, "format": "jsonl", "path": "data", "licence": "ODC-BY"} for s in sources],
        "score": {
            "classifiers": ["fasttext", "embedding"],
            "embedding": {"encoder": "org/encoder", "head": "/home/someone/head.safetensors"},
        },
        "synthesis": {
            "llm": {"server": "vllm", "model": model, "temperature": 0.7},
            "rephrase_scores": [1, 2, 3],
            "moralise": True,
        },
        "tag": {"rate": 0.05},
        "tokenise": {"tokenizer": "org/tokenizer", "weights": {"safe": 0.8}},
    }


def filled_tally(seed: int, shares: dict[str, tuple[float, ...]], documents: int) -> Tally:
    draw = random.Random(seed)
    phrases = [(p, c) for c, ps in enumerate(load_phrase_lists().values()) for p in ps]
    weights = [1 / (1 + c % 5) for _, c in phrases]
    tally = Tally()
    for source, levels in shares.items():
        for _ in range(documents):
            level = draw.choices(range(6), levels)[0]
            tokens = int(draw.lognormvariate(6.2, 0.8)) + 20
            tally.add("original", source, level, tokens, text(draw, phrases, weights, level), draw.choice(LANGUAGES))
            for kind in ("rephrased",) if 1 <= level <= 3 else ("refusal", "moral") if level >= 4 else ():
                factor = AFTER_REWRITING[kind]
                tally.add(kind, source, level, int(tokens * 0.9), text(draw, phrases, weights, level, factor))
    return tally


def text(draw: random.Random, phrases: list, weights: list[float], level: int, factor: float = 1.0) -> str:
    bursts = sum(draw.random() < HITS_PER_DOCUMENT[level] * factor / 4 for _ in range(4))
    chosen = draw.choices(phrases, weights, k=bursts)
    return "calm words here. " + " and ".join(" again ".join([p] * draw.choice((1, 1, 2))) for p, _ in chosen)


def write_manifest(run: Path, stage: str, shard: int, rows_in: int, dropped: dict, quarantined: dict, **more) -> None:
    kept = rows_in - sum(dropped.values()) - sum(quarantined.values())
    rows = {"in": rows_in, "kept": kept, "dropped": dropped, "quarantined": quarantined}
    content = {
        "stage": stage,
        "shard": shard,
        "rows": rows,
        "forced_stale": False,
        "seconds": 1.5 + shard,
        "metrics": {},
    }
    path = run / "manifests" / stage / f"{shard:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more))


def write_run(
    run: Path, documents: int = 400, shares: dict | None = None, verified: float = 0.9, seed: int = 1
) -> Path:
    """A finished run with `documents` a source and shard; `verified` of the synthetic texts pass."""
    shares = LEVEL_SHARES if shares is None else shares
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe(list(shares)), allow_unicode=True))
    (run / "card_counts").mkdir()
    (run / "tokens").mkdir()
    (run / "tokens" / "blend.json").write_text(json.dumps({"sources": [{"name": "safe", "weight": 0.8}]}))
    for shard in range(SHARDS):
        tally = filled_tally(seed * 100 + shard, shares, documents)
        (run / "card_counts" / f"{shard:05d}.json").write_bytes(tally.to_json())
        rows = documents * len(shares)
        for stage in STAGES:
            dropped, quarantined, metrics = {}, {}, {}
            if stage == "ingest":
                dropped, quarantined = (
                    {"too_short": 31, "contaminated:advbench": 4, "contaminated:xstest": 2},
                    {"extraction_empty": 9},
                )
            elif stage == "documents":
                dropped = {"duplicate": 37}
            elif stage == "score-final":
                metrics = {"never_train": {"privacy": 2}}
            elif stage.startswith("verify-"):
                failed = round(rows * (1 - verified))
                dropped = {"too_unsafe": failed - failed // 3, "copied": failed // 3}
                metrics = (
                    {
                        "yield_by_style": {"podcast_host": [40, 50], "textbook": [30, 60]},
                        "rejected_by_style": {
                            "podcast_host": {"copied": 10},
                            "textbook": {"style:title": 20, "copied": 25},
                        },
                        "accepted_by_attempt": {"1": 60, "2": 10, "10": 0},
                    }
                    if stage.endswith("rephrased")
                    else {}
                )
            elif stage.startswith("tokenise-"):
                metrics = {
                    "tokens": {"safe": 910_000, "rephrased": 120_000}.get(stage.removeprefix("tokenise-"), 31_000)
                }
            write_manifest(run, stage, shard, rows + 100, dropped, quarantined, metrics=metrics)
    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A finished run; tests only read it (build_card writes into its report folder)."""
    return write_run(tmp_path_factory.mktemp("runs") / "finished", documents=150)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Builds a run folder of a given name: `make_run("a", documents=..., shares=..., verified=..., seed=...)`."""
    return lambda name, **options: write_run(tmp_path / name, **options)
