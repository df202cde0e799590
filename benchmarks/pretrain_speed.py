"""Tokens a second of the pretraining loop: `python -m benchmarks.pretrain_speed`.

Three sides take turns in one process, on the same model shape, batch and threads, in float32:
  loop     `pretrain.loop.train`: data, updates, log lines, metrics.jsonl, one checkpoint a repetition
  bare     forward, backward, clip and update of the same modules on one batch in memory
  trainer  Hugging Face's Trainer with the equal LlamaForCausalLM on the same samples, no checkpoints
The ratio is that of the medians, by the clock on the wall and by processor time, which other work on the machine disturbs
less; beside each the least and the largest of the ratios of single turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from pretrain.blended_data import BlendedData
from pretrain.export import llama_config
from pretrain.indexed_dataset import IndexedDatasetBuilder
from pretrain.loop import train
from pretrain.mesh import Ranks
from pretrain.model import new_decoder
from pretrain.optimizer import new_optimizer
from pretrain.recipe import PretrainRecipe
from pretrain.reporting import Report
from pretrain.stop_signal import StopSignal
from pretrain.training import Training

VOCABULARY = 8192
DOCUMENTS = 2000
LEAST_AGAINST_BARE, LEAST_AGAINST_TRAINER, MOST_DATA_SHARE = 0.9, 1.1, 0.02


def write_corpus(folder: Path) -> Path:
    """A blend of one source with random documents of 20 to 1000 tokens; returns the blend file."""
    random = np.random.default_rng(0)
    tokens = 0
    with IndexedDatasetBuilder(folder / "text", "uint16") as builder:
        for length in random.integers(20, 1000, DOCUMENTS):
            builder.add_document(random.integers(1, VOCABULARY - 1, length))
            tokens += int(length)
    blend = {
        "tokenizer": "tokenizer",
        "vocabulary_size": VOCABULARY,
        "tag_token": "<potentially_unsafe_content>",
        "tag_token_id": VOCABULARY - 1,
        "end_of_document_id": 0,
        "dtype": "uint16",
        "sources": [{"name": "text", "weight": 1.0, "tokens": tokens, "documents": DOCUMENTS, "shards": ["text"]}],
    }
    (folder / "blend.json").write_text(json.dumps(blend), encoding="utf-8")
    return folder / "blend.json"


@dataclass(frozen=True)
class Seconds:
    """Length of one turn, on the wall and in processor time of all threads."""

    wall: float
    processor: float


def now() -> Seconds:
    """Both clocks."""
    return Seconds(time.perf_counter(), time.process_time())


def since(begun: Seconds) -> Seconds:
    """What has passed since."""
    ended = now()
    return Seconds(ended.wall - begun.wall, ended.processor - begun.processor)


class Loop:
    """Our side: each turn trains `exit_interval` iterations and waits for its checkpoint."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        self._recipe = recipe
        self.training = Training(recipe, Ranks(0, 1, torch.device("cpu")), None)
        self.training.open_save_folder()

    def turn(self) -> Seconds:
        """Seconds of one turn."""
        begun = now()
        with Report(self._recipe, self.training.state.iteration, lambda line: None, True, False) as report:
            with StopSignal() as stop:
                train(self.training, None, None, report, stop)
        return since(begun)

    def data_share(self) -> float:
        """Part of the time of all turns that went into reading samples."""
        lines = (self._recipe.save / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return statistics.fmean(json.loads(line)["data_share"] for line in lines)


class Bare:
    """The same modules, one batch in memory."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        self._recipe = recipe
        self._decoder = new_decoder(recipe.model, VOCABULARY, recipe.seed)
        if recipe.compile:
            for block in self._decoder.blocks():
                block.compile()
        self._optimizer = new_optimizer(recipe, self._decoder)
        shape = (recipe.micro_batch_size, recipe.seq_length + 1)
        self._text = torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))

    def turn(self) -> Seconds:
        """Seconds of one turn."""
        recipe = self._recipe
        tokens = recipe.global_batch_size * recipe.seq_length
        begun = now()
        for _ in range(recipe.exit_interval or 1):
            for _ in range(recipe.global_batch_size // recipe.micro_batch_size):
                logits = self._decoder(self._text[:, :-1]).flatten(0, 1)
                loss = functional.cross_entropy(logits, self._text[:, 1:].flatten(), reduction="sum") / tokens
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self._decoder.parameters(), recipe.clip_grad)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return since(begun)


class Samples(Dataset[dict[str, Any]]):
    """The run's samples as Trainer takes them. It shifts the labels itself, so one label a sample is lost."""

    def __init__(self, data: BlendedData, count: int) -> None:
        self._data, self._count = data, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, sample: int) -> dict[str, Any]:
        ids = torch.from_numpy(self._data.tokens(sample)[:-1])
        return {"input_ids": ids, "labels": ids}


class Clock(TrainerCallback):
    """From the begin of Trainer's first step to the end of its last: its start-up does not count."""

    begun: Seconds | None = None
    passed = Seconds(0.0, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Called by Trainer."""
        self.begun = self.begun or now()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Called by Trainer."""
        assert self.begun is not None
        self.passed = since(self.begun)


class HuggingFace:
    """Trainer with the equal model."""

    def __init__(self, recipe: PretrainRecipe, data: BlendedData, folder: Path) -> None:
        decoder = new_decoder(recipe.model, VOCABULARY, recipe.seed)
        config = llama_config(decoder, data.blend, recipe.seq_length)
        self._model = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in config.items() if key != "dtype"}))
        self._samples = Samples(data, recipe.train_iters * recipe.global_batch_size)
        self._arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=recipe.micro_batch_size,
            gradient_accumulation_steps=recipe.global_batch_size // recipe.micro_batch_size,
            max_steps=recipe.exit_interval or 1,
            learning_rate=recipe.lr,
            lr_scheduler_type="constant",
            adam_beta2=recipe.adam_beta2,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip_grad,
            optim="adamw_torch_fused",
            logging_steps=recipe.log_interval,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )

    def turn(self) -> Seconds:
        """Seconds of one turn."""
        clock = Clock()
        trainer = Trainer(self._model, self._arguments, train_dataset=self._samples, callbacks=[clock])
        trainer.log = lambda *_, **__: None  # type: ignore[method-assign]  # it prints
        trainer.train()
        return clock.passed


def take_turns(sides: dict[str, Callable[[], Seconds]], repetitions: int) -> dict[str, list[Seconds]]:
    """Seconds of each turn by side, after one turn of each that is not counted."""
    for turn in sides.values():
        turn()
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, turn in sides.items():
            seconds[name].append(turn())
    return seconds


def compare(seconds: dict[str, list[Seconds]], other: str, clock: str) -> tuple[float, str]:
    """How many times as fast as `other` the loop is, and the same with its spread as text."""
    ours, theirs = ([getattr(turn, clock) for turn in seconds[side]] for side in ("loop", other))
    single = [their / our for our, their in zip(ours, theirs, strict=True)]
    ratio = statistics.median(theirs) / statistics.median(ours)
    return ratio, f"{ratio:.3f} ({min(single):.3f} to {max(single):.3f})"


def print_ratio(seconds: dict[str, list[Seconds]], other: str, asked: float) -> None:
    """One line: both ratios, and whether what is asked is met on the wall clock."""
    wall, on_wall = compare(seconds, other, "wall")
    _, of_processor = compare(seconds, other, "processor")
    print(
        f"loop / {other:8} {on_wall}, processor time {of_processor}; asked: at least {asked}: {_verdict(wall >= asked)}"
    )


def main() -> None:
    """Print tokens a second of each side, the two ratios and the data's share, with what is asked of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="tiny-2m", help="a name of pretrain/model_shapes.yaml")
    parser.add_argument("--iterations", type=int, default=20, help="updates in one turn")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="compile the layers of the loop and of bare, not Trainer's"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = PretrainRecipe.model_validate(
            {
                "data": write_corpus(folder),
                "save": folder / "save",
                "model": given.shape,
                "seq_length": 256,
                "micro_batch_size": 4,
                "global_batch_size": 8,
                "train_iters": given.iterations * (given.repetitions + 2),
                "exit_interval": given.iterations,
                "lr": 1e-3,
                "lr_decay_style": "constant",
                "threads": given.threads,
                "compile": given.compile,
            }
        )
        loop = Loop(recipe)
        trainer = HuggingFace(recipe, loop.training.data, folder / "trainer")
        seconds = take_turns({"loop": loop.turn, "bare": Bare(recipe).turn, "trainer": trainer.turn}, given.repetitions)
        share = loop.data_share()
    tokens = given.iterations * recipe.global_batch_size * recipe.seq_length
    weights = sum(parameter.numel() for parameter in loop.training.decoder.parameters())
    print(
        f"{given.shape}, {weights:,} weights, {recipe.seq_length} x {recipe.global_batch_size} tokens an update, "
        f"{given.threads} threads, {given.repetitions} turns of {given.iterations} updates"
        f"{', layers of the loop and of bare compiled' if given.compile else ''}"
    )
    for side, times in seconds.items():
        print(f"{side:8} {tokens / statistics.median(turn.wall for turn in times):10,.0f} tokens/s")
    print_ratio(seconds, "bare", LEAST_AGAINST_BARE)
    print_ratio(seconds, "trainer", LEAST_AGAINST_TRAINER)
    print(
        f"data: {share:.2%} of the loop's time; asked: below {MOST_DATA_SHARE:.0%}: {_verdict(share < MOST_DATA_SHARE)}"
    )


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"


if __name__ == "__main__":
    main()
