"""What a run folder's manifests and recipe say to the card: ledger, yield of the writers, tokens, how it was made."""

import json
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import yaml

from classifiers.errors import DataError
from pipeline.atomic_files import json_sha256
from pipeline.recipe import output_part
from pipeline.report.rates import wilson_interval

STAGES = (
    *("ingest", "dedup-find", "documents", "embed", "score-fasttext", "score-embedding"),
    *("score-judge", "score-final"),
    *("rephrase", "refuse", "moralise", "verify-rephrased", "verify-refusal", "verify-moral", "tag"),
    *("tokenizer", "tokenise-safe", "tokenise-tagged", "tokenise-rephrased", "tokenise-refusal", "tokenise-moral"),
    *("blend", "card-counts"),
)
"""All stages in the order in which text flows; the ledger is shown in it."""

OPTIONAL_STAGES = frozenset({"embed", "score-fasttext", "score-embedding", "score-judge"})
"""Which of these run is the recipe's choice; their absence is no gap."""

_WRITER_OF_KIND = {"rephrased": "rephrase", "refusal": "refuse", "moral": "moralise"}

_NOT_BY_DOCUMENT_SHARD = frozenset({"dedup-find", "tokenizer", "blend"})
_AFTER_THE_CARD = frozenset({"report", "publish"})
"""A card says the same whether or not it was built, or published, before."""

_MADE_KEYS = frozenset({"classifiers", "model", "server", "encoder", "head", "weights", "tokenizer", "revision"})
_MADE_KEYS_OF_SYNTHESIS = frozenset(
    {"temperature", "top_p", "max_tokens", "rephrase_scores", "refuse_scores", "attempts", "rate"}
)


def read_manifests(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Stage -> manifests of its finished shards, in shard order; stages in the order of STAGES, unknown ones last.

    Of each only what the card tells: whole, those of 100,000 shards would take ten gigabytes.

    Raises DataError naming a manifest that cannot be read.
    """
    manifests: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((run / "manifests").glob("*/*.json")):
        if not path.stem.isdigit() or path.parent.name in _AFTER_THE_CARD:
            continue
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            rows = manifest["rows"]
            # What the card reads is checked here, so that no later line meets a surprise.
            _ = (int(rows["in"]), int(rows["kept"]), Counter(rows["dropped"]), Counter(rows["quarantined"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a manifest ({error!r}); rerun that shard") from error
        told = {key: manifest[key] for key in ("rows", "metrics", "forced_stale") if key in manifest}
        manifests.setdefault(path.parent.name, []).append(told)
    known = [stage for stage in STAGES if stage in manifests]
    return {stage: manifests[stage] for stage in known + sorted(manifests.keys() - set(STAGES))}


def ledger(run: Path, manifests: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row a stage: shards (finished, failed), rows in, kept, dropped and quarantined by reason, whether it balances."""
    rows = []
    for stage, shards in manifests.items():
        dropped = sum((Counter(m["rows"]["dropped"]) for m in shards), Counter())
        quarantined = sum((Counter(m["rows"]["quarantined"]) for m in shards), Counter())
        rows_in, kept = sum(m["rows"]["in"] for m in shards), sum(m["rows"]["kept"] for m in shards)
        rows.append(
            {
                "stage": stage,
                "shards": len(shards),
                "failed_shards": len(list((run / "manifests" / stage).glob("*.failed.json"))),
                "in": rows_in,
                "kept": kept,
                "dropped": dict(sorted(dropped.items())),
                "quarantined": dict(sorted(quarantined.items())),
                # Shard by shard: two errors must not cancel in the sum.
                "balanced": all(_missing_rows(m["rows"]) == 0 for m in shards),
                "forced_stale": any(m.get("forced_stale", False) for m in shards),
            }
        )
    return rows


def _missing_rows(rows: dict[str, Any]) -> int:
    return rows["in"] - rows["kept"] - sum(rows["dropped"].values()) - sum(rows["quarantined"].values())


def removed_documents(manifests: dict[str, list[dict[str, Any]]], ledger_rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of what was taken out: duplicates, never_train, and overlaps with evaluation suites (by suite).

    None where the stage that would say so has not run. A drop reason may carry a detail after a colon. never_train
    documents keep a marked row in score-final, whose manifests count them by reason in `metrics.never_train`.
    """
    found: Counter[str] = Counter()
    for manifest in manifests.get("score-final", []):
        found.update(manifest.get("metrics", {}).get("never_train", {}))
    by_stage = {row["stage"]: Counter(row["dropped"]) + Counter(row["quarantined"]) for row in ledger_rows}

    def of(stage: str, reason: str) -> int | None:
        if stage not in by_stage:
            return None
        return sum(n for name, n in by_stage[stage].items() if name.split(":")[0] == reason)

    suites = {
        name.removeprefix("contaminated:"): n
        for name, n in by_stage.get("ingest", Counter()).items()
        if name.startswith("contaminated:")
    }
    return {
        "duplicate": of("documents", "duplicate"),
        "never_train": sum(found.values()) if "score-final" in manifests else None,
        "never_train_by_reason": dict(sorted(found.items())),
        "contaminated": of("ingest", "contaminated"),
        "contaminated_by_suite": dict(sorted(suites.items())),
    }


def synthetic_yield(manifests: dict[str, list[dict[str, Any]]], ledger_rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each kind that was verified, what verification let through.

    tried, accepted, share (with its Wilson interval) and dropped count documents: of one that is dropped, under the
    first rule that its last draft broke. drafts counts every attempt; `by_attempt` says at which one the accepted texts
    were written; `by_style` has the drafts of a style (tried), those accepted, and under `rejected` how many broke
    which rule (one draft may break several); `rejected` is their sum over the styles.
    """
    result = {}
    for row in ledger_rows:
        stage = row["stage"]
        if not stage.startswith("verify-"):
            continue
        styles: dict[str, list[int]] = {}
        rejected: dict[str, Counter[str]] = {}
        by_attempt: Counter[str] = Counter()
        for manifest in manifests[stage]:
            metrics = manifest.get("metrics", {})
            for style, (accepted, tried) in metrics.get("yield_by_style", {}).items():
                so_far = styles.setdefault(style, [0, 0])
                so_far[0] += accepted
                so_far[1] += tried
            for style, reasons in metrics.get("rejected_by_style", {}).items():
                rejected.setdefault(style, Counter()).update(reasons)
            by_attempt.update(metrics.get("accepted_by_attempt", {}))
        result[stage.removeprefix("verify-")] = {
            **yield_entry(row["kept"], row["in"]),
            "dropped": dict(Counter(row["dropped"]) + Counter(row["quarantined"])),
            "drafts": sum(tried for _, tried in styles.values()),
            "by_attempt": {number: by_attempt[number] for number in sorted(by_attempt, key=int)},
            "rejected": dict(sorted(sum(rejected.values(), Counter()).items())),
            "by_style": {
                style: {**yield_entry(*counts), "rejected": dict(sorted(rejected.get(style, Counter()).items()))}
                for style, counts in sorted(styles.items())
            },
        }
    return result


def yield_entry(accepted: int, tried: int) -> dict[str, Any]:
    """accepted, tried and their share with its interval (None when nothing was tried)."""
    share = vars(wilson_interval(accepted, tried)) if tried else None
    return {"accepted": accepted, "tried": tried, "share": share}


def token_counts(run: Path, manifests: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Tokens of each tokenised source (sum of the manifests' `tokens`), its share, and its weight in the blend."""
    totals = {
        stage.removeprefix("tokenise-"): sum(int(m.get("metrics", {}).get("tokens", 0)) for m in shards)
        for stage, shards in manifests.items()
        if stage.startswith("tokenise-")
    }
    weights = blend_weights(run)
    everything = sum(totals.values())
    return [
        {"source": source, "tokens": n, "share": n / everything if everything else None, "weight": weights.get(source)}
        for source, n in totals.items()
    ]


def blend_weights(run: Path) -> dict[str, float]:
    """Source -> weight, as `RUN/tokens/blend.json` has them; empty before the blend is made. Raises DataError."""
    path = run / "tokens" / "blend.json"
    if not path.is_file():
        return {}
    try:
        return {source["name"]: source["weight"] for source in json.loads(path.read_text(encoding="utf-8"))["sources"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a blend file ({error!r}); rerun the blend stage") from error


def read_recipe(run: Path) -> tuple[dict[str, Any], str | None]:
    """(recipe, sha256 of its part that decides the output); ({}, None) where the run has none. Raises DataError when it
    is no mapping."""
    path = run / "recipe.yaml"
    if not path.is_file():
        return {}, None
    try:
        recipe = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise DataError(f"{path}: expected a mapping; the run's frozen recipe is damaged")
    return recipe, json_sha256(output_part(recipe))


def writer_name(recipe: dict[str, Any]) -> str | None:
    """The model that wrote the synthetic texts, a folder by its name; None where the recipe asks for none."""
    llm = (recipe.get("synthesis") or {}).get("llm") or {}
    return without_folders(llm["model"]) if llm.get("model") else None


def without_folders(name: str) -> str:
    """A model's name as a card shows it: it is published, the folders of the machine it was made on stay out of it."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def how_it_was_made(recipe: dict[str, Any]) -> dict[str, str]:
    """Dotted recipe key -> value, for the models and the settings that shape the texts; folders by name only."""
    found: dict[str, str] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and path[-1:] != ("weights",):
            for key, item in value.items():
                walk(item, (*path, str(key)))
        elif path and value not in (None, {}, []):
            wanted = path[-1] in _MADE_KEYS or (path[-1] in _MADE_KEYS_OF_SYNTHESIS and path[0] in ("synthesis", "tag"))
            if wanted:
                found[".".join(path)] = without_folders(_one_line(value))

    walk({key: recipe[key] for key in ("score", "synthesis", "tag", "tokenise") if recipe.get(key)}, ())
    return found


def _one_line(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def missing_parts(manifests: dict[str, list[dict[str, Any]]], recipe: dict[str, Any]) -> list[str]:
    """The stages that have not run, in order, without those that the recipe leaves out."""
    left_out = set(OPTIONAL_STAGES)
    for kind in _kinds_left_out(recipe.get("synthesis", {})):
        left_out |= {_WRITER_OF_KIND[kind], f"verify-{kind}", f"tokenise-{kind}"}
    return [stage for stage in STAGES if stage not in manifests and stage not in left_out]


def _kinds_left_out(synthesis: dict[str, Any] | None) -> set[str]:
    """The kinds of synthetic text that a recipe's section does not ask for (`stages.tokenise.synthetic_kinds`)."""
    if synthesis is None:
        return set(_WRITER_OF_KIND)
    kinds = set() if synthesis.get("rephrase_scores", True) else {"rephrased"}
    if not synthesis.get("refuse_scores", True):
        return kinds | {"refusal", "moral"}
    return kinds if synthesis.get("moralise", True) else kinds | {"moral"}


def warnings_of(ledger_rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before the numbers: forced stale results, broken ledgers, shards that are not there."""
    warnings = []
    shards = max((row["shards"] for row in ledger_rows if row["stage"] in ("ingest", "documents")), default=0)
    for row in ledger_rows:
        stage = row["stage"]
        if row["forced_stale"]:
            warnings.append(
                f"Stale: {stage} kept results made from older inputs (--force-stale). Do not publish; rerun {stage}."
            )
        if not row["balanced"]:
            warnings.append(
                f"Broken ledger: rows of {stage} are unaccounted for (in is not kept + dropped + quarantined)."
            )
        if row["failed_shards"]:
            warnings.append(
                f"Failed: {row['failed_shards']} shard(s) of {stage}; their documents are not in the numbers, or as they were before."
            )
        if row["shards"] < shards and stage not in _NOT_BY_DOCUMENT_SHARD:
            warnings.append(f"Partial: {stage} has finished {row['shards']} of {shards} shards.")
    return warnings
