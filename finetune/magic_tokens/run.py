"""The two commands of magic-token co-training: distil the answers, then train on them in one stage."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from classifiers.loading import fixed_threads
from finetune.chat_data import TokenisedChat, data_sha256, tokenise_chat
from finetune.errors import FinetuneDataError, ResultFolderError
from finetune.loading import StartingModel, add_lora, load_starting_model, starting_reference
from finetune.magic_tokens.behaviours import behaviours
from finetune.magic_tokens.distillation import Distillation, DistilledPrompt, Grader, PoolPrompt, distil
from finetune.magic_tokens.recipe import MagicRecipe
from finetune.magic_tokens.release_guard import CONFIG_KEY, mark_not_for_release
from finetune.magic_tokens.rows_file import read_rows, write_rows
from finetune.magic_tokens.tokens import MagicTokens
from finetune.magic_tokens.training_rows import batched_groups, check_modes, training_rows
from finetune.prompt_sets import HeldOut, Prompt, draw_prompts, draw_unseen, dropped_line
from finetune.result_folder import save_model, write_result
from finetune.run_inputs import INPUTS_FILE, check_finished, compare_inputs, json_sha256, keep_inputs
from finetune.training import begin, collator, features, to_device, training_arguments

Report = Callable[[str], None]
METHOD = "magic_tokens"


def run_distillation(recipe: MagicRecipe, grader: Grader, report: Report = print) -> dict[str, int]:
    """Writes `recipe.rows` and its lineage; the counts. Does nothing where the file is there: delete it to ask again.

    Raises as `distil` does; FinetuneRecipeError for the negative mode that was not allowed, before anything is asked.
    """
    check_modes(recipe.modes, recipe.allow_negative)
    if recipe.rows.is_file():
        report(f"{recipe.rows}: there already, nothing to do")
        return {}
    settings = recipe.distil
    prompts, dropped = pool(recipe)
    if (line := dropped_line(dropped)) is not None:
        report(line)
    work = recipe.rows.with_name(f".{recipe.rows.name}.work")
    every = max(1, len(prompts))
    found: Distillation = distil(
        prompts,
        recipe.modes,
        settings.policies,
        settings.candidates,
        settings.server,
        settings.request_fields,
        grader,
        recipe.seed,
        work,
        lambda done: report(f"distil: {done} answers") if done % every == 0 else None,
    )
    facts = {
        "model": settings.server.model,
        "grader": grader.identity(),
        "behaviour_prompts": {"version": behaviours().version, "sha256": behaviours().sha256},
        "recipe": settings.model_dump(mode="json"),
        "modes": list(recipe.modes),
        "seed": recipe.seed,
        "counts": found.counts,
        "held_out_dropped": dropped,
    }
    write_rows(recipe.rows, found.prompts, facts)
    shutil.rmtree(work)
    report(f"{recipe.rows}: {len(found.prompts)} complete prompts; {found.counts}")
    return found.counts


def pool(recipe: MagicRecipe) -> tuple[list[PoolPrompt], dict[str, int]]:
    """The prompts to be answered, and how many of each file were dropped because they are held out. Raises FinetuneDataError
    where too few are left, and for one that is risky and benign."""
    settings, held_out = recipe.distil, HeldOut(recipe.held_out)
    dropped = {}
    risk, dropped["distil.prompts"] = draw_unseen(
        "distil.prompts", settings.prompts, settings.max_prompts, recipe.seed, held_out
    )
    benign: list[Prompt] = []
    if settings.benign_prompts is not None:
        benign, dropped["distil.benign_prompts"] = draw_unseen(
            "distil.benign_prompts", settings.benign_prompts, settings.max_benign_prompts, recipe.seed, held_out
        )
    if shared := {prompt.id for prompt in risk} & {prompt.id for prompt in benign}:
        raise FinetuneDataError(f"{settings.benign_prompts}: the id {sorted(shared)[0]} is in {settings.prompts} too")
    prompts = [PoolPrompt(p.id, p.text, "risk") for p in risk] + [PoolPrompt(p.id, p.text, "benign") for p in benign]
    return prompts, dropped


def train_magic_tokens(recipe: MagicRecipe, report: Report = print) -> dict[str, Any]:
    """One-stage SFT on the distilled rows; the content of finetune.json. A finished run is not done again.

    A run with the negative mode is marked before its first weight is written (one from a marked model: `begin`).
    """
    from finetune.magic_tokens.ordered_trainer import OrderedTrainer
    from finetune.trainer_run import run_trainer

    check_modes(recipe.modes, recipe.allow_negative)
    finished = begin(recipe, METHOD)
    if finished is not None:
        check_finished(recipe.output, lambda: _finished_inputs(recipe))
        report(f"{recipe.output}: finished already, nothing to do")
        return finished
    prompts, dropped = _allowed_rows(recipe)
    if (line := dropped_line({"rows": dropped})) is not None:
        report(line)
    if "negative" in recipe.modes:
        mark_not_for_release(recipe.output)
    with fixed_threads(recipe.threads):
        start = load_starting_model(recipe.model)
        if "negative" in recipe.modes:
            setattr(start.model.config, CONFIG_KEY, True)
        tokens = _tokens(recipe, start, prompts, report)
        inputs = _inputs(recipe, prompts, tokens)
        compare_inputs(recipe.output, inputs)
        chosen = _benign_limited(prompts, recipe)
        rows: list[TokenisedChat] = []
        for epoch in range(int(recipe.epochs)):
            rows += _epoch(chosen, tokens, recipe, start, epoch, len(rows))
        report(f"{len(rows)} rows in {int(recipe.epochs)} passes over {len(chosen)} prompts")
        model = start.model if recipe.lora is None else add_lora(start.model, recipe.lora, recipe.seed)
        arguments = training_arguments(recipe.model_copy(update={"epochs": 1.0}))
        trainer = OrderedTrainer(to_device(model), arguments, features(rows), collator(start.tokenizer))
        keep_inputs(recipe.output, inputs)
        metrics, log = run_trainer(trainer, METHOD, report)
        save_model(model, start, recipe)
    result = {
        "method": METHOD,
        "data": {**_data_facts(chosen, rows, recipe), "held_out_dropped": dropped},
        "metrics": metrics,
        "log": log,
    }
    return write_result(recipe, start, result)


def _allowed_rows(recipe: MagicRecipe) -> tuple[list[DistilledPrompt], int]:
    """(what of the rows is not held out, how many were dropped). The rows may be older than the list of held-out files."""
    prompts = read_rows(recipe.rows)
    kept = HeldOut(recipe.held_out).without(prompts)
    dropped = len(prompts) - len(kept)
    if dropped and not any(one.kind == "risk" for one in kept):
        raise FinetuneDataError(
            f"{recipe.rows}: {dropped} of {len(prompts)} prompts overlap held-out ones and were dropped, and no risk prompt is "
            "left: distil other prompts"
        )
    return kept, dropped


def _inputs(recipe: MagicRecipe, prompts: Sequence[DistilledPrompt], tokens: MagicTokens | None) -> dict[str, str]:
    """Hashes of the rows and, where they are given, the tokens, and the model's revision."""
    rows = [[one.id, one.text, one.kind, one.policy, sorted(one.answers.items())] for one in prompts]
    return {
        "rows": json_sha256(rows),
        **({} if tokens is None else {"magic_tokens": tokens.fingerprint()}),
        "model": starting_reference(recipe.model).revision,
    }


def _finished_inputs(recipe: MagicRecipe) -> dict[str, str]:
    """Of a whole run, whose secret file may be elsewhere by now."""
    tokens = MagicTokens.load(recipe.tokens) if recipe.tokens.is_file() else None
    return _inputs(recipe, _allowed_rows(recipe)[0], tokens)


def _tokens(
    recipe: MagicRecipe, start: StartingModel, prompts: Sequence[DistilledPrompt], report: Report
) -> MagicTokens:
    """The tokens of the secret file; new ones, where it is not there. Raises ResultFolderError where a run has begun with it."""
    if recipe.tokens.is_file():
        tokens = MagicTokens.load(recipe.tokens)
    elif (recipe.output / INPUTS_FILE).is_file():
        raise ResultFolderError(
            f"{recipe.output} holds a run that has begun with the magic tokens of {recipe.tokens}, which is not there: put "
            "that file back, or delete the folder to begin anew"
        )
    else:
        texts = [text for one in prompts for text in (one.text, *one.answers.values())]
        policies = sorted({one.policy for one in prompts if one.policy is not None})
        tokens = MagicTokens.generate(recipe.modes, policies, start.tokenizer, texts)
        tokens.save(recipe.tokens)
        report(f"{recipe.tokens}: new magic tokens, for its owner alone")
    if missing := set(recipe.modes) - set(tokens.modes):
        raise FinetuneDataError(f"{recipe.tokens} has no token for the mode {sorted(missing)[0]}; name another file")
    return tokens


def _benign_limited(prompts: Sequence[DistilledPrompt], recipe: MagicRecipe) -> list[DistilledPrompt]:
    """All risk prompts, and so many benign ones that their two rows under each policy are at most `benign_share` of all."""
    risk = [one for one in prompts if one.kind == "risk"]
    if not risk:
        raise FinetuneDataError(f"{recipe.rows} holds no risk prompts, so there are no modes to learn")
    risk_rows = len(risk) * (len(recipe.modes) + 3 * recipe.default_share)
    benign = {one.id: one for one in prompts if one.kind == "benign"}
    policies = len({one.policy for one in prompts if one.kind == "benign"})
    limit = int(risk_rows * recipe.benign_share / (1 - recipe.benign_share) / (2 * max(1, policies)))
    kept = draw_prompts([Prompt(one.id, one.text) for one in benign.values()], limit, recipe.seed)
    names = {prompt.id for prompt in kept}
    return [*risk, *(one for one in prompts if one.kind == "benign" and one.id in names)]


def _epoch(
    prompts: Sequence[DistilledPrompt],
    tokens: MagicTokens,
    recipe: MagicRecipe,
    start: StartingModel,
    epoch: int,
    before: int,
) -> list[TokenisedChat]:
    """One pass's rows in training order, behind `before` rows of earlier passes. A prompt of which one row is too long is
    left out with all of its rows."""
    made = training_rows(
        prompts,
        tokens,
        recipe.modes,
        recipe.allow_negative,
        recipe.default_share,
        recipe.seed,
        epoch,
        recipe.shuffle_modes,
    )
    tokenised = [tokenise_chat(row.chat, start.tokenizer, recipe.max_length, recipe.too_long) for row in made]
    dropped = {row.prompt_id for row, chat in zip(made, tokenised, strict=True) if chat is None}
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(made):
        if row.prompt_id not in dropped:
            groups.setdefault(row.prompt_id, []).append(number)
    if not groups:
        raise FinetuneDataError(
            f"no prompt is left: every one has a row of more than max_length {recipe.max_length} tokens"
        )
    order = batched_groups(list(groups.values()), recipe.batch_size, recipe.seed + epoch, before)
    chats = [tokenised[number] for number in order]
    return [chat for chat in chats if chat is not None]


def _data_facts(
    prompts: Sequence[DistilledPrompt], rows: Sequence[TokenisedChat], recipe: MagicRecipe
) -> dict[str, Any]:
    """Counts and hashes for the result. The rows' hash covers secret texts: it tells equality, and nothing else."""
    return {
        "rows_sha256": hashlib.sha256(recipe.rows.read_bytes()).hexdigest(),
        "sha256": data_sha256(rows),
        "modes": list(recipe.modes),
        "risk_prompts": sum(one.kind == "risk" for one in prompts),
        "benign_prompts": sum(one.kind == "benign" for one in prompts),
        "rows": len(rows),
        "tokens": sum(len(row.input_ids) for row in rows),
        "supervised_tokens": sum(row.supervised for row in rows),
    }
