"""What SafeSteer's loss costs: `python -m benchmarks.safesteer_cost [--tuning full] [--answers 4] [--repetitions 15]`.

Two sides take turns in one process, on the same model, tokens and threads, in float32:
  plain      forward and backward of the cross-entropy of the answers' tokens
  safesteer  the trainer's own loss step: the steered teacher's forward, the student's forward, the partial loss, backward
Sampling and the update of the weights are in neither. Printed: the ratio of the medians and the spread of the ratios of single
turns, by the clock on the wall and by processor time, which other work on the machine disturbs less.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from classifiers.loading import fixed_threads
from finetune.loading import LoraSettings, add_lora, load_starting_model
from finetune.safesteer.rollouts import TrainingPrompt, answer_logits, plan_answers, rollout_batch
from finetune.safesteer.sampling import SampledAnswer, SamplingLimits
from finetune.safesteer.teacher import SteeredTeacher
from finetune.safesteer.trainer import Loss, SafeSteerSettings, SafeSteerTrainer
from finetune.training import to_device
from rephrasers.embedded_writer import EMBEDDED_NAME

MOST = 1.6
TOKENS_IN_SET = 50


def make_trainer(model: Any, tuning: str, loss: Loss, folder: str) -> SafeSteerTrainer:
    """The trainer of a run with random direction and tokens, which cost what real ones do."""
    generator = torch.Generator().manual_seed(0)
    width, columns = model.config.hidden_size, model.get_output_embeddings().weight.shape[0]
    direction = torch.randn(width, generator=generator).to(model.device)
    tokens = tuple(torch.randperm(columns, generator=generator)[:TOKENS_IN_SET].tolist())
    layer = model.config.num_hidden_layers // 2
    if tuning == "lora":
        student = add_lora(model, LoraSettings(), seed=0)
        teacher = SteeredTeacher(student, direction, layer)
    else:
        student, teacher = model, SteeredTeacher(copy.deepcopy(model).requires_grad_(False).eval(), direction, layer)
    settings = SafeSteerSettings(loss, tokens, frozenset(), SamplingLimits(1, frozenset({0})), 1, 0, 0)
    plan = plan_answers([TrainingPrompt("p", (1,))], 1, 1, 0)
    arguments = {"output_dir": folder, "use_cpu": not torch.cuda.is_available(), "report_to": "none"}
    return SafeSteerTrainer(student, arguments, plan, teacher, settings)


def plain_step(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """Forward and backward of cross-entropy on the answers, logits made for them alone as in the other side."""
    width = batch["response_mask"].shape[1]
    forward: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    logits = answer_logits(model(**forward, logits_to_keep=width + 1, use_cache=False).logits).float()
    targets = batch["input_ids"][:, -width:].masked_fill(~batch["response_mask"], -100)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """(seconds on the wall, processor seconds) of one step."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Prints both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_NAME)
    parser.add_argument("--tuning", choices=("lora", "full"), default="lora")
    parser.add_argument("--loss", choices=("partial", "generalised", "bucketed", "full"), default="partial")
    parser.add_argument("--answers", type=int, default=4, help="rows of one micro-batch")
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with fixed_threads(options.threads), tempfile.TemporaryDirectory() as folder:
        model = to_device(load_starting_model(options.model).model)
        columns = model.get_output_embeddings().weight.shape[0]
        trainer = make_trainer(model, options.tuning, options.loss, folder)
        student: Any = trainer.model
        student.train()
        ids = torch.randint(0, columns, (options.answers, options.prompt_tokens + options.answer_tokens))
        split = options.prompt_tokens
        answers = [SampledAnswer(str(n), tuple(row[:split]), tuple(row[split:])) for n, row in enumerate(ids.tolist())]
        batch = {name: part.to(model.device) for name, part in rollout_batch(answers, 0).items()}
        sides: dict[str, Callable[[], None]] = {
            "plain": lambda: plain_step(student, batch),
            "safesteer": lambda: trainer.compute_loss(student, batch, num_items_in_batch=options.answers).backward(),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for repetition in range(options.repetitions + 2):
            for name, step in sides.items():
                student.zero_grad(set_to_none=True)
                taken = timed(step)
                if repetition >= 2:  # the first ones fill caches
                    times[name].append(taken)
    print(f"{options.tuning}, loss {options.loss}, {options.answers} x ({split} + {options.answer_tokens}) tokens")
    for clock, place in (("wall", 0), ("processor", 1)):
        medians = {name: statistics.median(one[place] for one in taken) for name, taken in times.items()}
        ratios = [b[place] / a[place] for a, b in zip(times["plain"], times["safesteer"], strict=True)]
        print(
            f"{clock}: plain {medians['plain']:.3f} s, safesteer {medians['safesteer']:.3f} s, ratio "
            f"{medians['safesteer'] / medians['plain']:.3f} (single turns {min(ratios):.3f} to {max(ratios):.3f}); "
            f"goal: at most {MOST}, {'met' if medians['safesteer'] <= MOST * medians['plain'] else 'missed'}"
        )


if __name__ == "__main__":
    main()
