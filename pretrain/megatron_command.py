"""The same run in Megatron-LM: `pretrain_gpt.py` with the data, the model and the schedule of a recipe.

The data are the same files, the order of the samples is the same to the bit for a run of one mixture. Stages of a
curriculum become one command each; see the notes in the script.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pretrain.blend_file import Blend, BlendSource, load_blend, source_weights
from pretrain.recipe import PretrainRecipe
from pretrain.stages import stage_samples

# Recipe key -> option with the same meaning and value.
_SAME_VALUE: Final = {
    "seq_length": "--seq-length",
    "micro_batch_size": "--micro-batch-size",
    "global_batch_size": "--global-batch-size",
    "exit_interval": "--exit-interval",
    "lr": "--lr",
    "min_lr": "--min-lr",
    "lr_decay_style": "--lr-decay-style",
    "weight_decay": "--weight-decay",
    "adam_beta1": "--adam-beta1",
    "adam_beta2": "--adam-beta2",
    "adam_eps": "--adam-eps",
    "clip_grad": "--clip-grad",
    "save_interval": "--save-interval",
    "log_interval": "--log-interval",
    "seed": "--seed",
}
_MODEL: Final = {
    "layers": "--num-layers",
    "hidden_size": "--hidden-size",
    "ffn_hidden_size": "--ffn-hidden-size",
    "heads": "--num-attention-heads",
    "norm_epsilon": "--norm-epsilon",
    "init_std": "--init-method-std",
}
# A Llama in Megatron's words; embeddings are tied unless it is told otherwise.
_LLAMA: Final = [
    "--position-embedding-type",
    "rope",
    "--normalization",
    "RMSNorm",
    "--swiglu",
    "--disable-bias-linear",
    "--attention-dropout",
    "0.0",
    "--hidden-dropout",
    "0.0",
]

Options = list[list[str]]


def megatron_script(recipe: PretrainRecipe) -> str:
    """Shell script: merge the sources of several shards, then one `pretrain_gpt.py` command for each stage.

    Raises `PretrainDataError` where the blend file is missing or the recipe's weights do not fit it.
    """
    blend = load_blend(recipe.data)
    stages = recipe.data_stages()
    samples = recipe.train_iters * recipe.global_batch_size
    counts = stage_samples(stages, recipe.seq_length, samples) if stages else [samples]
    weights = [source_weights(recipe.data, blend, stage.weights) for stage in stages] or [
        source_weights(recipe.data, blend, None)
    ]
    read = [source for source, *shares in zip(blend.sources, *weights, strict=True) if any(shares)]
    lines = [f"# {note}" for note in _notes(recipe, len(counts))]
    lines += [_merge_command(recipe.data.parent, source) for source in read if len(source.shards) > 1]
    end = 0
    for number, (count, shares) in enumerate(zip(counts, weights, strict=True), start=1):
        end += count
        iterations = end // recipe.global_batch_size
        if len(counts) > 1:
            lines.append(f"# Stage {number}: up to iteration {iterations}")
        lines.append(_command(_options(recipe, blend, shares, iterations, resumes=number > 1)))
    return "\n".join(lines)


def _notes(recipe: PretrainRecipe, stages: int) -> list[str]:
    notes = ["Run it in a checkout of Megatron-LM; GPUS is the number of GPUs of the node."]
    if stages > 1:
        notes += [
            "One command a stage. Megatron-LM keeps no place in each source: a stage begins where its own mixture would be",
            "after the samples consumed so far, so some samples of the stages before come again and others are left out.",
            "Stages end at whole iterations.",
        ]
    if recipe.data_samples is not None and recipe.data_samples != recipe.train_iters * recipe.global_batch_size:
        notes.append("data_samples has no counterpart: the order of the samples is that of a run without it.")
    if recipe.load is not None or recipe.init_from is not None:
        notes.append("Our checkpoints and Hugging Face folders are not Megatron-LM's: convert them, and add --load.")
    if recipe.validation is not None:
        notes.append("Validation by source has no counterpart; the run evaluates nothing.")
    for name in ("tag", "end_of_document"):
        if getattr(recipe.loss_mask, name):
            notes.append(f"loss_mask.{name} has no counterpart: Megatron-LM takes loss on these labels.")
    notes.append("Megatron-LM divides the first scale of the output matrices by sqrt(2 x layers); we do not.")
    return notes


def _prefix(folder: Path, source: BlendSource) -> Path:
    return folder / (source.shards[0] if len(source.shards) == 1 else f"merged/{source.name}")


def _merge_command(folder: Path, source: BlendSource) -> str:
    shards = [str(folder / shard) for shard in source.shards]
    return shlex.join(["python", "-m", "pretrain.merge_shards", str(_prefix(folder, source)), *shards])


def _command(options: Options) -> str:
    lines = ['torchrun --nproc-per-node "${GPUS:-8}" pretrain_gpt.py', *(shlex.join(option) for option in options)]
    return " \\\n    ".join(lines)


def _options(recipe: PretrainRecipe, blend: Blend, shares: Sequence[float], iterations: int, resumes: bool) -> Options:
    settings: dict[str, Any] = recipe.model_dump(mode="json")
    save = f"{recipe.save}-megatron"  # our own checkpoints have a tracker file of the same name
    data = [
        part
        for source, share in zip(blend.sources, shares, strict=True)
        if share
        for part in (repr(share), str(_prefix(recipe.data.parent, source)))
    ]
    options = [
        ["--data-path", *data],
        ["--split", "100,0,0"],
        ["--eval-iters", "0"],
        ["--dataloader-type", "single"],
        ["--tokenizer-type", "HuggingFaceTokenizer"],
        ["--tokenizer-model", str(recipe.data.parent / blend.tokenizer)],
        # Megatron-LM multiplies it by the tensor-parallel ranks.
        ["--make-vocab-size-divisible-by", str(recipe.model.vocabulary_multiple // recipe.tensor_parallel)],
        ["--tensor-model-parallel-size", str(recipe.tensor_parallel)],
        ["--train-iters", str(iterations)],
        *_given(settings, _SAME_VALUE),
        *_schedule(recipe),
        *_model(recipe, settings["model"]),
        ["--save", save],
        ["--exit-signal-handler"],
    ]
    if recipe.loss_mask.after_end_of_document:
        options.append(["--eod-mask-loss"])
    if recipe.precision == "bf16":
        options.append(["--bf16", "--use-distributed-optimizer"])
    if recipe.recompute == "full":
        options.append(
            ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1"]
        )
    return [*options, ["--load", save]] if resumes else options


def _given(settings: Mapping[str, Any], names: Mapping[str, str]) -> Options:
    return [[option, str(settings[key])] for key, option in names.items() if settings[key] is not None]


def _schedule(recipe: PretrainRecipe) -> Options:
    schedule = recipe.schedule()
    options = [
        ["--lr-warmup-iters", str(round(schedule.warmup_updates))],
        ["--lr-decay-iters", str(round(schedule.decay_updates))],
    ]
    if schedule.style == "WSD":
        options += [
            ["--lr-wsd-decay-style", schedule.wsd_style],
            ["--lr-wsd-decay-iters", str(round(schedule.wsd_decay_updates))],
        ]
    return options


def _model(recipe: PretrainRecipe, settings: Mapping[str, Any]) -> Options:
    model = recipe.model
    options = [
        *_given(settings, _MODEL),
        ["--max-position-embeddings", str(recipe.seq_length)],
        ["--rotary-base", f"{model.rope_theta:.0f}"],
        _LLAMA,
    ]
    if model.kv_heads != model.heads:
        options.append(["--group-query-attention", "--num-query-groups", str(model.kv_heads)])
    return options
