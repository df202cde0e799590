"""From a model that benign tuning eroded: SafeSteer on a few safety tokens, against distillation of the whole vocabulary from
the same steered teacher. Harmful prompts alone are trained on, at most 100 with those that the direction is found with.

The direction and the tokens are found once, by the first run, and shared by all.
"""

import io
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.finetune_comparison.prompts import (
    HARMFUL,
    HARMLESS,
    REQUESTS,
    drawn_rows,
    evaluation_files,
    write_lines,
    write_prompts,
)
from benchmarks.finetune_comparison.settings import RECIPES, Settings, SteeringSizes
from benchmarks.finetune_comparison.steps import measure, say
from benchmarks.finetune_comparison.tables import (
    draw_shares,
    draw_trade,
    estimate,
    markdown,
    refusal_difference,
    refusal_share,
    share_text,
    write_report,
)
from classifiers.errors import DataError
from evaluation.measures.intervals import Estimate, bootstrap_mean
from evaluation.measures.paired_tests import PairedTest, paired_test
from finetune.files import sync_and_rename, temporary_name
from finetune.loading import RESULT_FILE
from finetune.recipe import load_recipe
from finetune.safesteer.prepared_steering import FACTS_FILE, VECTOR_FILE
from finetune.safesteer.recipe import SafeSteerRecipe

START, STEERED, FULL = "start", "safesteer", "full vocabulary"
# Name of an arm and the loss that `recipes/finetune_safesteer.yaml` gets.
LOSSES: Final = {STEERED: "generalised", FULL: "full"}
# Harmful prompts of training, of the direction, of its validation: at most 100 in all.
MOST_HARMFUL: Final = 100
KINDS: Final = ("prompt", "answer")
NOTE = """
`start` is the model that both arms begin from. KL: nats a position from the model to `start` on held-out harmless prompts, over
the positions of the prompt and over those of the start's own greedy answers to them; mean and bootstrap interval over prompts.
Refusals are told by phrases ({tokens} new tokens, greedy). {harmful} harmful prompts in all, for training and for the
direction; no general data is trained on, {harmless} harmless prompts give direction and tokens.
"""


def compare_steering(
    settings: Settings, start: Path, texts: Path, sizes: SteeringSizes, rates: Sequence[float] = ()
) -> str:
    """The comparison from the model in `start` into `settings.output`; the table. `texts`: folder with
    direction_requests.jsonl and direction_harmless.jsonl. `rates`: other learning rates, of both losses with the first seed,
    since a loss that moves the model more may also refuse more. Raises DataError for a start that is not there or too many prompts,
    and what the runs raise."""
    if not any((start / name).is_file() for name in (RESULT_FILE, "config.json")):
        raise DataError(
            f"{start} holds no model: run `python -m benchmarks.finetune_comparison erosion` first, or name one"
        )
    if sizes.harmful > MOST_HARMFUL:
        raise DataError(f"{sizes.harmful} harmful prompts are asked for, and the comparison allows {MOST_HARMFUL}")
    prompts = write_prompts(settings)
    sets = _write_sets(prompts, texts, sizes)
    asked = [prompts / f"{name}.yaml" for name in (HARMFUL, REQUESTS, HARMLESS)]
    measured = {START: [measure(settings, START, start, asked, None)]}
    answers = settings.output / "measured" / START / "items.jsonl"
    distance = _distance(start, answers, settings.threads)
    trained: dict[str, list[dict[str, Any]]] = {}
    for seed, rate in [(seed, None) for seed in settings.seeds] + [(settings.seeds[0], rate) for rate in rates]:
        for name, loss in LOSSES.items():
            label = name if rate is None else f"{name}, lr {rate:g}"
            output = settings.output / "steered" / f"{label.replace(', ', '-').replace(' ', '_')}-seed{seed}"
            used = sizes if rate is None else replace(sizes, rate=rate)
            result = _train(settings, output, start, prompts, sets, used, loss, seed)
            trained.setdefault(label, []).append(result)
            found = measure(settings, output.name, output, asked, None, distance)
            measured.setdefault(label, []).append(found)
            say(f"{output.name}: refuses {share_text(refusal_share([found], HARMFUL))}")
    numbers, text = _report(settings, measured, trained, sizes)
    write_report(settings.output, numbers, text)
    shares = {
        name: {"harmful": refusal_share(runs, HARMFUL), "harmless": refusal_share(runs, HARMLESS)}
        for name, runs in measured.items()
    }
    draw_shares(settings.output / "results.png", "Refusal after steering", shares)
    if rates:
        draw_trade(
            settings.output / "trade.png", _trade(measured, sizes.rate), "KL to the start on harmless answers, nats a position",
            "Refusal against movement, by learning rate",
        )  # fmt: skip
    return text


def _trade(measured: dict[str, list[dict[str, Any]]], rate: float) -> dict[str, list[tuple[float, float, str]]]:
    """Loss -> (KL on harmless answers, share of harmful prompts refused, learning rate) of every arm, by learning rate."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    for label, runs in measured.items():
        name, _, other = label.partition(", lr ")
        if name != START:
            kl = statistics.fmean(_distances(runs, "answer"))
            points.setdefault(name, []).append((kl, refusal_share(runs, HARMFUL).value, other or f"{rate:g}"))
    return {name: sorted(found, key=lambda point: float(point[2])) for name, found in points.items()}


def _write_sets(folder: Path, texts: Path, sizes: SteeringSizes) -> dict[str, Path]:
    """Disjoint draws as the recipe's five files."""
    counts = {
        "requests": {
            "harmful_train": sizes.direction,
            "harmful_validation": sizes.validation,
            "prompts": sizes.prompts,
        },
        "harmless": {"harmless_train": sizes.direction, "harmless_validation": sizes.validation},
    }
    paths = {}
    for source, parts in counts.items():
        path = texts / f"direction_{source}.jsonl"
        rows = drawn_rows(path)
        if len(rows) < sum(parts.values()):
            raise DataError(f"{path} has {len(rows)} prompts, and {sum(parts.values())} are needed")
        for name, count in parts.items():
            paths[name] = folder / f"{name}.jsonl"
            write_lines(paths[name], rows[:count])
            rows = rows[count:]
    return paths


def _train(
    settings: Settings,
    output: Path,
    start: Path,
    prompts: Path,
    sets: dict[str, Path],
    sizes: SteeringSizes,
    loss: str,
    seed: int,
) -> dict[str, Any]:
    from finetune.safesteer.run import train_safesteer

    overrides = [
        *settings.common(output), f"model={start}", f"seed={seed}", f"loss={loss}", f"prompts={sets['prompts']}",
        f"held_out={json.dumps([str(path) for path in evaluation_files(prompts)])}",
        *(f"direction.{name}={path}" for name, path in sets.items() if name != "prompts"),
        f"direction.coefficient={sizes.coefficient}", f"direction.train_prompts={sizes.direction}", f"direction.validation_prompts={sizes.validation}",
        f"tokens.samples={min(sizes.samples, 4)}", f"samples_per_prompt={sizes.samples}", f"batch_size={sizes.batch}",
        f"micro_batch_size={sizes.batch}", f"epochs={sizes.epochs}", f"max_new_tokens={sizes.answer_tokens}",
        f"lr={sizes.rate}", "merge=false", "save_steps=8", *settings.overrides,
    ]  # fmt: skip
    recipe = load_recipe(RECIPES / "finetune_safesteer.yaml", SafeSteerRecipe, overrides)
    first = output.with_name(f"{STEERED}-seed{settings.seeds[0]}")
    if output != first and not (output / FACTS_FILE).is_file():
        output.mkdir(parents=True, exist_ok=True)
        for name in (VECTOR_FILE, FACTS_FILE):
            temporary = temporary_name(output / name)
            shutil.copyfile(first / name, temporary)
            sync_and_rename(temporary, output / name)
    return train_safesteer(recipe, say)


def _distance(start: Path, answers: Path, threads: int) -> Callable[[Any, Any], dict[str, Any]]:
    """Reads KL(model || start) on the harmless prompts with the start's answers: a list of means over positions each."""

    def read(model: Any, tokenizer: Any) -> dict[str, Any]:
        import torch

        from classifiers.loading import fixed_threads
        from finetune.chat_data import prompt_ids
        from finetune.loading import load_starting_model

        base = load_starting_model(str(start)).model.eval()
        found: dict[str, list[float]] = {f"kl_{kind}": [] for kind in KINDS}
        lines = map(json.loads, io.StringIO(answers.read_text(encoding="utf-8")))
        with fixed_threads(threads), torch.inference_mode():
            for item in (line for line in lines if line["suite"] == HARMLESS):
                asked = prompt_ids([{"role": "user", "content": item["prompt"]}], tokenizer)
                said = tokenizer(item["answer"], add_special_tokens=False)["input_ids"]
                ids = torch.tensor([[*asked, *said]], device=model.device)
                logits = [one(input_ids=ids, use_cache=False).logits[0].float() for one in (model.eval(), base)]
                kl = positions_kl(*logits)
                found["kl_prompt"].append(float(kl[: len(asked) - 1].mean()))
                # The last prompt position predicts the answer's first token (of an empty answer its end), the last token
                # nothing that is there.
                found["kl_answer"].append(float(kl[len(asked) - 1 : max(len(asked), len(ids[0]) - 1)].mean()))
        return found

    return read


def positions_kl(logits: Any, base_logits: Any) -> Any:
    """KL(model || base) [positions] in nats over the whole vocabulary; logits [positions, vocabulary]."""
    log_p, log_q = logits.log_softmax(-1), base_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _distances(runs: Sequence[dict[str, Any]], kind: str) -> list[float]:
    """Each prompt's mean over seeds."""
    return [statistics.fmean(values) for values in zip(*(run[f"kl_{kind}"] for run in runs), strict=True)]


def _report(
    settings: Settings,
    measured: dict[str, list[dict[str, Any]]],
    trained: dict[str, list[dict[str, Any]]],
    sizes: SteeringSizes,
) -> tuple[dict[str, Any], str]:
    rows, arms = [], {}
    for name, runs in measured.items():
        shares = {suite: refusal_share(runs, suite) for suite in (HARMFUL, REQUESTS, HARMLESS)}
        kls = {kind: bootstrap_mean(_distances(runs, kind)) if name != START else None for kind in KINDS}
        seconds = [result["metrics"]["seconds"] for result in trained.get(name, [])]
        arms[name] = {
            **{suite: estimate(share) for suite, share in shares.items()},
            "harmful_by_seed": [estimate(refusal_share([run], HARMFUL)) for run in runs],
            **{f"kl_{kind}": None if kl is None else estimate(kl) for kind, kl in kls.items()},
            "seconds_by_seed": seconds,
        }
        rows.append([
            name, share_text(shares[HARMFUL]), ", ".join(f"{refusal_share([run], HARMFUL).value:.3f}" for run in runs),
            share_text(shares[REQUESTS]), share_text(shares[HARMLESS]), *(_text(kl) for kl in kls.values()),
            f"{statistics.fmean(seconds):.0f}" if seconds else "-",
        ])  # fmt: skip
    differences = _differences(measured)
    header = [
        "arm", "harmful refused (95 %)", "by seed", "own held-out requests refused", "harmless refused", "KL, prompts",
        "KL, answers", "training s",
    ]  # fmt: skip
    text = "\n".join([
        markdown(header, rows),
        markdown(["paired difference", "mean (95 %)"], [[name, share_text(one)] for name, one in differences.items()]),
        NOTE.format(tokens=settings.new_tokens, harmful=sizes.harmful, harmless=sizes.direction + sizes.validation).strip() + "\n",
    ])  # fmt: skip
    facts = {
        "seeds": list(settings.seeds), "harmful_prompts": sizes.harmful, "arms": arms,
        "direction": trained[STEERED][0]["steering"],
        "differences": {name: estimate(one) for name, one in differences.items()},
    }  # fmt: skip
    return facts, text


def _differences(measured: dict[str, list[dict[str, Any]]]) -> dict[str, PairedTest]:
    found = {
        f"refusal, {one} - {other}": refusal_difference(measured[other], measured[one], HARMFUL)
        for one, other in ((STEERED, START), (FULL, START), (STEERED, FULL))
    }
    for kind in KINDS:
        full, steered = (_distances(measured[name], kind) for name in (FULL, STEERED))
        found[f"KL on {kind}s, {STEERED} - {FULL}"] = paired_test(full, steered)
    return found


def _text(value: Estimate | None) -> str:
    return "-" if value is None else f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})"
