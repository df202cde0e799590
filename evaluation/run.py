"""One evaluation: suites are loaded, answered, judged and measured; what an interrupted run has done is not done again."""

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from classifiers.errors import RecipeError
from evaluation.files import KeptAnswers, json_sha256, make_folder
from evaluation.generation.answering import Decoder, answer_by_server, answer_locally
from evaluation.generation.local_model import LocalModel
from evaluation.generation.server_model import ServerModel
from evaluation.judges.choice import make_judge
from evaluation.judges.verdict import SHORT_CIRCUIT, Exchange, Judge, Verdict
from evaluation.measures.rates import Rate, label_rate, mean_score
from evaluation.recipe import EvaluationRecipe
from evaluation.results import Item, write_result
from evaluation.suites import Suite, load_suite
from evaluation.suites.description import check_names
from rephrasers.harmfulness_tag import HARMFULNESS_TAG

# What is going on, how much of it is done, how much there is.
Progress = Callable[[str, int, int], None]
MakeDecoder = Callable[[LocalModel], Decoder]


def evaluate(
    recipe: EvaluationRecipe,
    output: Path,
    make_decoder: MakeDecoder | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Runs a recipe into a result folder and returns the summary (`evaluation.results`).

    make_decoder: gets the loaded model and gives the decoder to evaluate (None: the recipe's, else the model's own batched
    decoding).
    Answers and verdicts that the folder keeps are used again; a folder of other suites, models or judges may be used again
    too, since they are kept under all that they depend on.
    Raises RecipeError (unknown suite or judge, judge without a server, nothing to measure, two suites of one name, a file in the
    place of the folder),
    DataError (suites), ModelError, DependencyError.
    """
    judges, suites = judges_and_suites(recipe)
    if make_decoder is None and recipe.decoder is not None:
        make_decoder = recipe.decoder.build
    if make_decoder is not None and recipe.server is not None:
        raise RecipeError("a decoder needs the model itself: leave `server` out of the recipe")
    make_folder(output)
    model: LocalModel | ServerModel = (
        LocalModel.load(recipe.model, recipe.generation)
        if recipe.server is None
        else ServerModel(recipe.server, recipe.generation)
    )
    decoder = make_decoder(model) if make_decoder is not None and isinstance(model, LocalModel) else None
    items = _answer(recipe, suites, model, decoder, output, on_progress)
    for judge in judges:
        items = _judge(judge, items, output, on_progress)
    identity = model.model_identity()
    summary = {
        "name": recipe.name or identity["model"],
        "model": identity,
        "decoder": (decoder or model).identity(),
        "recipe": recipe.model_dump(mode="json", exclude={"server", "judge_server", "judges", "suite_folder"}),
        "suites": {suite.name: _suite_facts(suite) for suite in suites},
        "judges": {judge.name: {**judge.identity(), **_labels(judge)} for judge in judges},
        "measures": measure(items, judges),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()},
    }
    write_result(output, summary, items)
    return summary


def judges_and_suites(recipe: EvaluationRecipe) -> tuple[list[Judge], list[Suite]]:
    """What a recipe asks and who judges it; no model is loaded for it. Raises RecipeError, DataError as `evaluate` does."""
    judges = [make_judge(choice, recipe.judge_server, recipe.generation.threads) for choice in recipe.judges]
    check_names(recipe.suites)
    suites = [load_suite(name, recipe.suite_folder, recipe.limit) for name in recipe.suites]
    _check_measures(suites, judges)
    return judges, suites


def measure(items: Sequence[Item], judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """One entry for each suite, attack, judge and measure: `value`, `low`, `high`, `interval`, `n`, `valid`, `invalid`,
    `short_circuited`, `worst` (invalid judgements counted against the model, whichever way the measure is better).

    attack_success_rate: harmful prompts, attack labels. over_refusal_rate: benign prompts, refusal labels.
    refusal_rate: harmful prompts, refusal labels. mean_score: harmful prompts, of judges that give scores.
    """
    found = []
    for suite, attack in dict.fromkeys((item.suite, item.attack) for item in items):
        for judge in judges:
            by_kind = {
                kind: [i.verdicts[judge.name] for i in items if (i.suite, i.attack, i.kind) == (suite, attack, kind)]
                for kind in ("harmful", "benign")
            }
            for name, rate in _rates(judge, by_kind["harmful"], by_kind["benign"]):
                found.append({"suite": suite, "attack": attack, "judge": judge.name, "measure": name, **_plain(rate)})
    return found


def _rates(judge: Judge, harmful: Sequence[Verdict], benign: Sequence[Verdict]) -> list[tuple[str, Rate]]:
    rates = []
    if harmful and judge.attack_labels:
        rates.append(("attack_success_rate", label_rate(harmful, judge.attack_labels)))
    if harmful and judge.refusal_labels:
        rates.append(("refusal_rate", label_rate(harmful, judge.refusal_labels, good=True)))
    if harmful and judge.score_range is not None:
        # The constructive judge's scale alone is better upwards.
        worst = judge.score_range[0] if judge.name == "constructive" else judge.score_range[1]
        rates.append(("mean_score", mean_score(harmful, worst, judge.score_range)))
    if benign and judge.refusal_labels:
        rates.append(("over_refusal_rate", label_rate(benign, judge.refusal_labels)))
    return rates


def _check_measures(suites: Sequence[Suite], judges: Sequence[Judge]) -> None:
    """Raises RecipeError where no judge has a measure of the prompts that there are."""
    kinds = {prompt.kind for suite in suites for prompt in suite.prompts}
    one = {kind: [Verdict(None)] if kind in kinds else [] for kind in ("harmful", "benign")}
    if any(_rates(judge, one["harmful"], one["benign"]) for judge in judges):
        return
    raise RecipeError(
        f"nothing would be measured: suites {', '.join(suite.name for suite in suites)} hold {' and '.join(sorted(kinds))} "
        f"prompts, of which judges {', '.join(judge.name for judge in judges) or '(none)'} have no measure; add a judge that "
        "tells refusals (refusal_strings needs no server), or a suite of harmful prompts"
    )


def _plain(rate: Rate) -> dict[str, Any]:
    e = rate.estimate
    return {
        "value": _number(e.value), "low": _number(e.low), "high": _number(e.high), "interval": e.method, "n": rate.n,
        "valid": e.n, "invalid": rate.invalid, "short_circuited": rate.short_circuited, "worst": _number(rate.worst),
    }  # fmt: skip


def _number(value: float) -> float | None:
    """JSON has no nan."""
    return None if value != value else round(value, 6)


def _answer(
    recipe: EvaluationRecipe,
    suites: Sequence[Suite],
    model: LocalModel | ServerModel,
    decoder: Decoder | None,
    output: Path,
    on_progress: Progress,
) -> list[Item]:
    kept = KeptAnswers(output / "answers.jsonl")
    items: list[Item] = []
    for suite in suites:
        for prefill in recipe.prefill_tokens:
            attack = f"prefill-{prefill}" if prefill else "none"
            what = f"{suite.name}, {attack}" if prefill else suite.name

            def progress(done: int, total: int, what: str = what) -> None:
                on_progress(f"answers of {what}", done, total)

            if isinstance(model, LocalModel):
                answers = answer_locally(
                    suite.prompts, model, decoder, recipe.form, recipe.system, prefill, kept, progress
                )
            else:
                work = output / "work" / "answers"
                answers = answer_by_server(
                    suite.prompts, model, recipe.form, recipe.system, prefill, kept, work, progress
                )
                shutil.rmtree(work, ignore_errors=True)
            items += [
                Item(suite.name, attack, prompt.id, prompt.kind, prompt.category, prompt.text, answer)
                for prompt, answer in zip(suite.prompts, answers, strict=True)
            ]
    return items


def _judge(judge: Judge, items: Sequence[Item], output: Path, on_progress: Progress) -> list[Item]:
    """The items with this judge's verdicts. Invalid ones are not kept: a second run asks again."""
    kept = KeptAnswers(output / "verdicts.jsonl")
    identity = judge.identity()
    keys = [json_sha256({"judge": identity, "prompt": i.prompt, "answer": i.answer}) for i in items]
    exchanges = {
        key: Exchange(key, "benign" if item.kind == "benign" else "harmful", item.prompt, item.answer)
        for key, item in zip(keys, items, strict=True)
        if item.answer is not None and HARMFULNESS_TAG not in item.answer and key not in kept
    }
    found: dict[str, Verdict] = {}
    if exchanges:
        work, total = output / "work" / judge.name, len(exchanges)
        verdicts = judge.judge(
            list(exchanges.values()), work, lambda done: on_progress(f"verdicts of {judge.name}", done, total)
        )
        found = dict(zip(exchanges, verdicts, strict=True))
        kept.add((key, asdict(verdict)) for key, verdict in found.items() if verdict.label is not None)
        shutil.rmtree(work, ignore_errors=True)
        on_progress(f"verdicts of {judge.name}", total, total)
    judged = []
    for key, item in zip(keys, items, strict=True):
        if item.answer is None:
            verdict = Verdict(None, reason="no answer")
        elif HARMFULNESS_TAG in item.answer:
            verdict = Verdict(SHORT_CIRCUIT)
        else:
            verdict = found[key] if key in found else Verdict(**kept[key])
        judged.append(replace(item, verdicts={**item.verdicts, judge.name: verdict}))
    return judged


def _labels(judge: Judge) -> dict[str, Any]:
    return {
        "labels": list(judge.labels),
        "attack_labels": sorted(judge.attack_labels),
        "refusal_labels": sorted(judge.refusal_labels),
    }


def _suite_facts(suite: Suite) -> dict[str, Any]:
    d = suite.description
    kinds = [prompt.kind for prompt in suite.prompts]
    return {
        "title": d.title, "kind": d.kind, "source": d.source, "licence": d.licence, "origin": suite.origin,
        "prompts_sha256": suite.sha256, "harmful": kinds.count("harmful"), "benign": kinds.count("benign"),
    }  # fmt: skip
