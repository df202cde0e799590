"""One SafeSteer run: direction, safety tokens, training, result folder.

OUTPUT/direction.safetensors, steering.json    the direction, its table of candidates, the tokens; kept for a restart
and what every fine-tuning run leaves (finetune/training.py)
"""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from classifiers.loading import fixed_threads
from finetune.chat_data import prompt_ids, special_tokens
from finetune.errors import FinetuneDataError
from finetune.loading import StartingModel, add_lora, load_starting_model, starting_reference
from finetune.prompt_sets import HeldOut, Prompt, draw_unseen, dropped_line
from finetune.result_folder import save_model, write_result
from finetune.run_inputs import check_finished, compare_inputs, json_sha256, keep_inputs
from finetune.safesteer.extraction import (
    DirectionPrompts,
    find_direction,
    refusal_token_ids,
    template_suffix_length,
)
from finetune.safesteer.prepared_steering import PreparedSteering, load_steering
from finetune.safesteer.recipe import SafeSteerRecipe
from finetune.safesteer.rollouts import TrainingPrompt, plan_answers
from finetune.safesteer.sampling import SamplingLimits
from finetune.safesteer.teacher import SteeredTeacher
from finetune.safesteer.token_selection import random_tokens, select_safety_tokens
from finetune.safesteer.token_votes import SafetyToken
from finetune.safesteer.trainer import SafeSteerSettings, SafeSteerTrainer
from finetune.safesteer.weight_movement import relative_movement
from finetune.trainer_run import run_trainer
from finetune.training import begin, to_device, training_arguments

Report = Callable[[str], None]
METHOD = "safesteer"
_SETS = ("harmful_train", "harmful_validation", "harmless_train", "harmless_validation")


def train_safesteer(recipe: SafeSteerRecipe, report: Report = print) -> dict[str, Any]:
    """Trains by a recipe and writes the result folder; the content of finetune.json. A finished run is not done again.

    Raises what is wrong with recipe, prompts and model before training starts; DivergenceError in it.
    """
    finished = begin(recipe, METHOD)
    if finished is not None:
        check_finished(recipe.output, lambda: _inputs(recipe, _read_sets(recipe)[0]))
        report(f"{recipe.output}: finished already, nothing to do")
        return finished
    sets, dropped = _read_sets(recipe)
    if (line := dropped_line(dropped)) is not None:
        report(line)
    with fixed_threads(recipe.threads):
        start = load_starting_model(recipe.model)
        inputs = _inputs(recipe, sets)
        compare_inputs(recipe.output, inputs)
        encoded = {name: [_encode(prompt, start, recipe) for prompt in prompts] for name, prompts in sets.items()}
        training = [
            TrainingPrompt(prompt.id, ids) for prompt, ids in zip(sets["prompts"], encoded["prompts"], strict=True)
        ]
        plan = plan_answers(training, recipe.samples_per_prompt, recipe.batch_size, recipe.seed)
        arguments = training_arguments(recipe)
        to_device(start.model)
        end_ids = end_of_turn_ids(start)
        refusal_ids = refusal_token_ids(recipe.direction.refusal_openings, start.tokenizer)
        prepared = _prepare(recipe, start, encoded, refusal_ids, end_ids, report)
        model, teacher = _student_and_teacher(recipe, start, prepared)
        settings = SafeSteerSettings(
            recipe.loss, prepared.token_ids, frozenset(refusal_ids), SamplingLimits(recipe.max_new_tokens, end_ids),
            recipe.sampling_batch, start.tokenizer.pad_token_id, recipe.seed,
        )  # fmt: skip
        trainer = SafeSteerTrainer(model, arguments, plan, teacher, settings)
        keep_inputs(recipe.output, inputs)
        metrics, log = run_trainer(trainer, METHOD, report)
        metrics["relative_movement"] = relative_movement(model, None if teacher.shares_weights else teacher.model)
        save_model(model, start, recipe)
    data = {
        "prompts": len(training),
        "answers": len(plan),
        "prompts_sha256": _sha256(encoded),
        **{name: len(sets[name]) for name in _SETS},
        "held_out_dropped": dropped,
    }
    kept = {f"{name}_after_filter": count for name, count in prepared.kept.items()}
    facts = {"layer": prepared.chosen.layer, "position": prepared.chosen.position, "tokens": len(prepared.tokens)}
    return write_result(
        recipe,
        start,
        {"method": METHOD, "data": {**data, **kept}, "steering": facts, "metrics": metrics, "log": log},
    )


def end_of_turn_ids(start: StartingModel) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's end token and those of the model's generation settings."""
    named = getattr(start.model.generation_config, "eos_token_id", None)
    ids = {*(named if isinstance(named, list) else [named]), start.tokenizer.eos_token_id} - {None}
    if not ids:
        raise FinetuneDataError(f"{start.name}: neither tokenizer nor generation settings name an end token")
    return frozenset(ids)


def _read_sets(recipe: SafeSteerRecipe) -> tuple[dict[str, list[Prompt]], dict[str, int]]:
    """The five sets of prompts, drawn from what is not held out, and how many were dropped of each. Raises FinetuneDataError
    where a prompt is in two of them, or too few are left."""
    held_out, direction = HeldOut(recipe.held_out), recipe.direction
    files = {"prompts": (recipe.prompts, recipe.max_prompts)}
    for name in _SETS:
        wanted = direction.train_prompts if name.endswith("train") else direction.validation_prompts
        files[name] = (getattr(direction, name), wanted)
    sets, dropped = {}, {}
    for name, (path, wanted) in files.items():
        sets[name], dropped[name] = draw_unseen(name, path, wanted, recipe.seed, held_out)
    seen: dict[str, str] = {}
    for name, prompts in sets.items():
        for prompt in prompts:
            if seen.setdefault(prompt.text, name) != name:
                raise FinetuneDataError(
                    f"{name}: the prompt {prompt.id} is in {seen[prompt.text]} too; the sets must not share prompts"
                )
    return sets, dropped


def _inputs(recipe: SafeSteerRecipe, sets: Mapping[str, Sequence[Prompt]]) -> dict[str, str]:
    """Hashes of the drawn prompts of each set, and the model's revision."""
    hashes = {name: json_sha256([[prompt.id, prompt.text] for prompt in prompts]) for name, prompts in sets.items()}
    return {**hashes, "model": starting_reference(recipe.model).revision}


def _encode(prompt: Prompt, start: StartingModel, recipe: SafeSteerRecipe) -> tuple[int, ...]:
    if found := [token for token in special_tokens(start.tokenizer).values() if token in prompt.text]:
        raise FinetuneDataError(f"prompt {prompt.id} holds the special token {found[0]}: take it out")
    ids = prompt_ids(_messages(prompt.text, recipe), start.tokenizer)
    if len(ids) > recipe.max_prompt_tokens:
        raise FinetuneDataError(
            f"prompt {prompt.id} has {len(ids)} tokens with its template, more than max_prompt_tokens "
            f"{recipe.max_prompt_tokens}: take it out or raise the limit"
        )
    return tuple(ids)


def _messages(text: str, recipe: SafeSteerRecipe) -> list[dict[str, str]]:
    system = [{"role": "system", "content": recipe.system}] if recipe.system is not None else []
    return [*system, {"role": "user", "content": text}]


def _prepare(
    recipe: SafeSteerRecipe,
    start: StartingModel,
    encoded: dict[str, list[tuple[int, ...]]],
    refusal_ids: Sequence[int],
    end_ids: frozenset[int],
    report: Report,
) -> PreparedSteering:
    """The direction and the tokens of the starting model; those of an interrupted run, where there are some."""
    coefficient = recipe.direction.coefficient
    inputs = hashlib.sha256(f"{start.reference.revision}|{_sha256(encoded)}|{coefficient}".encode()).hexdigest()
    kept = load_steering(recipe.output, inputs)
    if kept is not None:
        report(f"direction and tokens of {recipe.output} are used again")
        return kept
    pad_id, tokens = start.tokenizer.pad_token_id, recipe.tokens
    length = template_suffix_length(lambda text: prompt_ids(_messages(text, recipe), start.tokenizer))
    found = find_direction(
        start.model,
        DirectionPrompts(*(encoded[name] for name in _SETS)),
        refusal_ids,
        length,
        pad_id,
        recipe.direction.batch_size,
        coefficient,
        lambda done, total: report(f"direction: {done} of {total} candidates") if done % 10 == 0 else None,
    )
    report(f"refusal direction: input of block {found.chosen.layer}, position {found.chosen.position}, {found.kept}")
    teacher = SteeredTeacher(start.model, found.vector, found.chosen.layer, coefficient)
    chosen = select_safety_tokens(
        teacher, found.harmless, start.tokenizer, end_ids, tokens.horizon, tokens.floor, tokens.size,
        tokens.votes_per_record, tokens.samples, recipe.seed, recipe.direction.batch_size,
    )  # fmt: skip
    if tokens.source == "random":
        columns = start.model.get_output_embeddings().weight.shape[0]
        drawn = random_tokens(len(chosen), start.tokenizer, columns, recipe.seed)
        chosen = [SafetyToken(token, 0, 0.0, 0.0, 0.0) for token in drawn]
    prepared = PreparedSteering(found.vector, found.chosen, found.table, tuple(chosen), found.kept, inputs)
    spellings = [start.tokenizer.decode([token.id]) for token in chosen]
    prepared.save(recipe.output, spellings)
    report(f"{len(chosen)} safety tokens ({tokens.source}): {spellings[:12]}")
    return prepared


def _student_and_teacher(
    recipe: SafeSteerRecipe, start: StartingModel, prepared: PreparedSteering
) -> tuple[Any, SteeredTeacher]:
    """With LoRA both are the same weights; else the teacher is a second, frozen copy."""
    layer, coefficient = prepared.chosen.layer, recipe.direction.coefficient
    direction = prepared.direction.to(start.model.device)
    if recipe.lora is not None:
        student = add_lora(start.model, recipe.lora, recipe.seed)
        return student, SteeredTeacher(student, direction, layer, coefficient)
    frozen = copy.deepcopy(start.model).requires_grad_(False).eval()
    return start.model, SteeredTeacher(frozen, direction, layer, coefficient)


def _sha256(encoded: dict[str, list[tuple[int, ...]]]) -> str:
    """Of the prompts of each set, whatever their order: runs of other seeds may share a direction."""
    return json_sha256({name: sorted(rows) for name, rows in encoded.items()})
