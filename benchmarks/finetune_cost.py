"""What STR costs an update: `python -m benchmarks.finetune_cost [--updates 12] [--repetitions 5] [--method lora|full]`.

Plain fine-tuning, STR with a kept reference and STR with an online one take turns in one process, on the same model, batches
and threads, each with an optimizer of its own; printed are seconds an update, and for each repetition the ratio to plain
fine-tuning in the same repetition, with its spread. The goals: kept at most 1.05, online at most 1.4 (LoRA).
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from finetune.arithmetic_problems import arithmetic_problems
from finetune.chat_data import tokenise_chats
from finetune.loading import LoraSettings, add_lora, load_starting_model
from finetune.reference import FrozenReader, adapter_off_reference, frozen_copy_reference
from finetune.reference_cache import CachedReference, keep_reference
from finetune.safety_tokens import template_token_ids
from finetune.str_training import StrObjective, StrSettings
from finetune.training import batches, collator, features
from rephrasers.embedded_writer import EMBEDDED_NAME

SIDES = ("plain", "kept", "online")
GOALS = {"kept": 1.05, "online": 1.4}


def make_trainer(
    model: Any, tokenizer: Any, rows: list[Any], objective: Any, options: argparse.Namespace, folder: str
) -> Any:
    """A trainer of this room, as `safetrove finetune` builds it, whose updates are timed from outside."""
    from transformers import TrainingArguments

    from finetune.trainer import SupervisedTrainer

    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=options.batch, report_to="none", disable_tqdm=True, use_cpu=options.cpu,
        remove_unused_columns=False, save_strategy="no", dataloader_pin_memory=False, bf16=options.bf16,
        max_steps=options.updates,
    )  # fmt: skip
    trainer = SupervisedTrainer(
        model=model,
        args=arguments,
        train_dataset=features(rows),
        data_collator=collator(tokenizer),
        objective=objective,
    )
    trainer.create_optimizer()
    return trainer


def timed_updates(trainer: Any, rounds: list[Any], device: str) -> float:
    """Seconds for one update on each batch: counts, forward, backward, clipping, optimizer."""
    import torch

    began = time.perf_counter()
    for batch in rounds:
        taken, labels = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.training_step(trainer.model, taken[0], labels)
        torch.nn.utils.clip_grad_norm_([p for p in trainer.model.parameters() if p.requires_grad], 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def make_sides(options: argparse.Namespace, device: str, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """(trainer of each side, the batches)."""
    import torch

    start = load_starting_model(options.model)
    tokenizer, ids = start.tokenizer, template_token_ids(start.tokenizer)[: options.tokens]
    rows = tokenise_chats(arithmetic_problems(options.batch * options.updates, 1), tokenizer, options.length)
    ready = list(batches(rows, tokenizer, options.batch, "cpu"))
    settings = StrSettings(space=options.space)
    trainers = {}
    for side in SIDES:
        model = copy.deepcopy(start.model)
        if options.method == "lora":
            model = add_lora(model, LoraSettings(), 1)
        model.to(device)
        objective = None if side == "plain" else StrObjective(settings, ids)
        if objective is not None and side == "online":
            make = adapter_off_reference if options.method == "lora" else frozen_copy_reference
            objective.reference = make(model, objective.reading)
        elif objective is not None:
            moved = [{name: value.to(device) for name, value in batch.items()} for batch in ready]
            with torch.autocast(device, torch.bfloat16, enabled=options.bf16):
                keep_reference(
                    folder, {"benchmark": "cost"}, FrozenReader(model, objective.reading), moved, objective.mask,
                    lambda batch, mask: torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1))[mask], "float32",
                )  # fmt: skip
            objective.reference = CachedReference(folder, {"benchmark": "cost"})
        trainers[side] = make_trainer(model, tokenizer, rows, objective, options, str(folder / side))
    return trainers, ready


def main() -> None:
    """See the module."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=EMBEDDED_NAME)
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--space", choices=["raw", "logprob", "centered", "mass"], default="raw")
    parser.add_argument("--updates", type=int, default=12, help="of each side in one repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32, help="size of the token set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.cpu = device == "cpu"
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        trainers, ready = make_sides(options, device, Path(folder))
        for trainer in trainers.values():
            timed_updates(trainer, ready[:2], device)
        for repetition in range(options.repetitions):
            order = SIDES[repetition % 3 :] + SIDES[: repetition % 3]
            for side in order:
                seconds[side].append(timed_updates(trainers[side], ready, device) / len(ready))
    tokens = sum(int(batch["attention_mask"].sum()) for batch in ready) / len(ready)
    print(f"{options.method}, {device}, {options.batch} rows and {tokens:.0f} tokens an update, |S| {options.tokens}")
    for side in SIDES:
        ratios = [own / plain for own, plain in zip(seconds[side], seconds["plain"], strict=True)]
        goal = f", goal {GOALS[side]}" if side in GOALS else ""
        print(
            f"{side}: {statistics.median(seconds[side]):.3f} s an update; ratio to plain {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} repetitions{goal})"
        )


if __name__ == "__main__":
    main()
