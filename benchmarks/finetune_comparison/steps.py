"""The steps that the comparisons are made of. Each leaves a folder that names its result when it is whole, and is not done
twice: OUTPUT/aligned, OUTPUT/tuned/ARM, OUTPUT/measured/NAME."""

import io
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.finetune_comparison.prompts import files_sha256
from benchmarks.finetune_comparison.settings import ANCHOR_SHARE, OWN_TEXTS, RECIPES, Arm, Settings
from evaluation.generation.settings import GenerationSettings
from evaluation.recipe import EvaluationRecipe
from evaluation.run import evaluate
from finetune.errors import DivergenceError
from finetune.files import write_json
from finetune.loading import RESULT_FILE
from finetune.recipe import load_recipe
from finetune.sft_training import SftRecipe, run_sft
from finetune.str_training import StrRecipe, run_str
from finetune.training import begin
from rephrasers.models import resolve_model

# (model, tokenizer) -> numbers; both as `load_starting_model` gives them.
Extra = Callable[[Any, Any], dict[str, Any]]
MEASURES: Final = "measures.json"


def say(line: str) -> None:
    """One line at once, into a pipe too."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def align(settings: Settings, epochs: float, rate: float) -> Path:
    """The base model, taught to refuse by `recipes/finetune_alignment.yaml`; its result folder, whole model included."""
    output = settings.output / "aligned"
    overrides = [
        *settings.common(output), f"model={settings.base}", f"epochs={epochs}", f"lr={rate}",
        "save_steps=20", f"data.0.path={OWN_TEXTS / 'refusal_dialogues.jsonl'}", f"data.1.path={OWN_TEXTS / 'harmless_dialogues.jsonl'}",
        *settings.overrides,
    ]  # fmt: skip
    run_sft(load_recipe(RECIPES / "finetune_alignment.yaml", SftRecipe, overrides), report=say)
    return output


def tune(settings: Settings, arm: Arm, start: Path, rows: int, epochs: float, rate: float) -> dict[str, Any] | None:
    """Benign tuning of the model in `start`; the content of its finetune.json, None where it diverged.

    Rows are drawn by the arm's seed, so that arms of one seed learn the same rows in the same order.
    """
    output = settings.output / "tuned" / arm.name
    overrides = [
        *settings.common(output), f"model={start}", f"seed={arm.seed}", f"data.0.rows={rows}", f"epochs={epochs}",
        f"lr={arm.rate or rate}", "evaluation_rows=0", "max_length=160", "batch_size=8", "micro_batch_size=8",
        "merge=false", "save_steps=20",
    ]  # fmt: skip
    refusals, brought = OWN_TEXTS / "refusal_dialogues.jsonl", round(ANCHOR_SHARE * rows)
    recipe: SftRecipe | StrRecipe
    if arm.kind == "plain":
        overrides += settings.overrides
        recipe = load_recipe(RECIPES / "finetune_benign_arithmetic.yaml", SftRecipe, overrides)
    elif arm.kind == "mixed":
        batch = round(8 * (1 + ANCHOR_SHARE))  # so that there are as many updates
        overrides += [
            f"data.1.path={refusals}", f"data.1.rows={brought}", f"batch_size={batch}", f"micro_batch_size={batch}",
            *settings.overrides,
        ]  # fmt: skip
        recipe = load_recipe(RECIPES / "finetune_benign_mixed.yaml", SftRecipe, overrides)
    else:
        # Kept once for all weights and rates of a seed.
        cache = settings.output / "references" / f"{arm.kind}-{arm.space}-{rows}-seed{arm.seed}"
        overrides += [
            f"penalty.weight={arm.weight}", f"penalty.space={arm.space}",
            f"penalty.tokens.random_control={str(arm.kind.endswith('random')).lower()}",
            f"penalty.cache={cache}",
        ]  # fmt: skip
        if arm.kind.startswith("anchored"):
            overrides += [
                "penalty.positions=none", f"penalty.anchors.path={refusals}", f"penalty.anchors.rows={brought}",
                f"penalty.anchors.share={ANCHOR_SHARE}",
            ]  # fmt: skip
        overrides += settings.overrides
        recipe = load_recipe(RECIPES / "finetune_str.yaml", StrRecipe, overrides)
    diverged = output / "diverged.json"
    if diverged.is_file():
        # Another recipe (a lower rate) did not diverge: it is refused, as for a run that ended.
        begin(recipe, "sft" if isinstance(recipe, SftRecipe) else "str")
        return None
    try:
        return run_sft(recipe, report=say) if isinstance(recipe, SftRecipe) else run_str(recipe, report=say)
    except DivergenceError as error:
        write_json(diverged, {"error": str(error)})
        return None


def measure(
    settings: Settings,
    name: str,
    result: Path,
    suites: Sequence[Path],
    problems: Path | None,
    extra: Extra | None = None,
) -> dict[str, Any]:
    """Asks the model in a result folder the prompts of `suites` (their descriptions), judged by refusal phrases, and reads
    its loss on held-out `problems`: `{"items": [{suite, group, id, refused}], "benign_loss", "seconds", ...}`."""
    from finetune.loading import load_starting_model

    folder = settings.output / "measured" / name
    texts = [path.with_suffix(".jsonl") for path in suites] + ([problems] if problems else [])
    found = kept_measures(folder, measured_of(result, texts, settings.new_tokens))
    if found is not None:
        return found
    say(f"measuring {name}")
    began = time.monotonic()
    start = load_starting_model(str(result))
    numbers: dict[str, Any] = {}
    if problems is not None:
        numbers["benign_loss"] = benign_loss(start.model, start.tokenizer, problems, settings.threads)
    if extra is not None:
        numbers |= extra(start.model, start.tokenizer)
    items: list[dict[str, Any]] = []
    if suites:
        whole = folder / "model"
        start.model.save_pretrained(whole)
        start.tokenizer.save_pretrained(whole)
        del start
        items = _answers(settings, folder, whole, suites)
        shutil.rmtree(whole)
    found = {"items": items, **numbers, "seconds": round(time.monotonic() - began, 1)}
    write_json(folder / MEASURES, found)
    return found


def measured_of(result: Path, texts: Sequence[Path], new_tokens: int) -> dict[str, Any]:
    """What the measures of the model in `result` depend on. A result of ours is told by its finetune.json, which holds the
    losses of its training; another model as everywhere, by its weights."""
    trained = result / RESULT_FILE
    model = files_sha256([trained]) if trained.is_file() else resolve_model(str(result)).revision
    return {"model": model, "prompts_sha256": files_sha256(texts), "new_tokens": new_tokens}


def kept_measures(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The measures in a folder, where they were made of the same (`measured_of`); else None.

    A folder of anything else is emptied: the answers that it keeps may be those of an earlier model of the same name.
    """
    begun, kept = folder / "identity.json", folder / MEASURES
    if begun.is_file() and json.loads(begun.read_text(encoding="utf-8")) == identity:
        found: dict[str, Any] | None = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
        return found
    shutil.rmtree(folder, ignore_errors=True)
    write_json(begun, identity)
    return None


def benign_loss(model: Any, tokenizer: Any, problems: Path, threads: int) -> float:
    """Mean cross-entropy of the answers in nats a token."""
    from classifiers.loading import fixed_threads
    from finetune.chat_data import read_chats, tokenise_chats
    from finetune.trainer import mean_cross_entropy
    from finetune.training import batches

    rows = tokenise_chats(read_chats(problems), tokenizer, 512, "cut")
    with fixed_threads(threads):
        return mean_cross_entropy(model, batches(rows, tokenizer, 10, model.device))


def _answers(settings: Settings, folder: Path, model: Path, suites: Sequence[Path]) -> list[dict[str, Any]]:
    recipe = EvaluationRecipe(
        model=str(model),
        suites=tuple(map(str, suites)),
        generation=GenerationSettings(max_new_tokens=settings.new_tokens, threads=settings.threads),
    )
    evaluate(recipe, folder)
    lines = io.StringIO((folder / "items.jsonl").read_text(encoding="utf-8"))
    return [
        {
            "suite": item["suite"], "group": item["category"], "id": item["id"],
            "refused": int(item["verdicts"]["refusal_strings"]["label"] == "refused"),
        }
        for item in map(json.loads, lines)
    ]  # fmt: skip
