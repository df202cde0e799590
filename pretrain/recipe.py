"""The recipe of a training run: frozen, every key documented, unknown keys refused. Names follow Megatron's options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pretrain.data_settings import DataStage, LossMaskSettings, check_weights
from pretrain.errors import PretrainRecipeError
from pretrain.schedule import DecayStyle, Schedule, WsdDecayStyle


class ModelConfig(BaseModel):
    """Shape of a Llama-like decoder with tied embeddings. The vocabulary comes from the blend file.

    SmolLM2-1.7B is layers 24, hidden_size 2048, ffn_hidden_size 8192, heads and kv_heads 32, init_std 0.02.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(ge=1, description="number of decoder layers")
    hidden_size: int = Field(ge=2, description="width of the residual stream")
    ffn_hidden_size: int = Field(ge=1, description="width of the SwiGLU layer")
    heads: int = Field(ge=1, description="attention heads; divides hidden_size")
    kv_heads: int = Field(ge=1, description="key and value heads (GQA); divides heads")
    norm_epsilon: float = Field(1e-5, gt=0, description="epsilon of RMSNorm")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary position embedding")
    init_std: float = Field(0.02, gt=0, description="standard deviation of the normal draws of all matrices")
    vocabulary_multiple: int = Field(
        128, ge=1, description="the vocabulary is padded to a multiple of this (Megatron: 128 x tensor-parallel size)"
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    def padded_vocabulary(self, vocabulary_size: int) -> int:
        """`vocabulary_size` (the tag included) rounded up to the multiple: 49,153 gives 49,280."""
        return -(-vocabulary_size // self.vocabulary_multiple) * self.vocabulary_multiple


class PretrainRecipe(BaseModel):
    """One training run. Relative paths are relative to the working directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(description="the blend file that the pipeline's `tokenise` stage wrote: RUN/tokens/blend.json")
    weights: dict[str, float] | None = Field(
        None, description="share of each source; sources left out are not read; none: the weights of the blend file"
    )
    stages: list[DataStage] = Field(
        [], description="mixtures by token count, one after the other (a curriculum), in place of weights"
    )
    loss_mask: LossMaskSettings = Field(LossMaskSettings(), description="which labels carry no loss")
    tokenizer: Path | None = Field(
        None, description="tokenizer folder of the model; a corpus that gives its tokens other ids is refused"
    )
    save: Path = Field(description="folder of the checkpoints and of metrics.jsonl; a run in it is resumed")
    export: Path | None = Field(None, description="folder for the final model in Hugging Face format; none: no export")
    model: ModelConfig = Field(description="shape of the model")

    seq_length: int = Field(ge=1, description="tokens of a training sample")
    micro_batch_size: int = Field(ge=1, description="samples of one forward and backward pass")
    global_batch_size: int = Field(ge=1, description="samples of one update; a multiple of micro_batch_size")
    train_iters: int = Field(ge=1, description="iterations of the whole run, earlier parts included")
    data_samples: int | None = Field(
        None,
        ge=1,
        description="samples that the order of the data is laid out for, at least those of the run (the default). Set it "
        "to the longest run you may want, and train_iters can grow later without reordering what was read",
    )
    exit_interval: int | None = Field(
        None, ge=1, description="save and stop after an iteration that is a multiple of this; none: run to the end"
    )

    lr: float = Field(gt=0, description="peak learning rate")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the decay")
    lr_decay_style: DecayStyle = Field("WSD", description="shape after the warm-up")
    lr_warmup_iters: int = Field(0, ge=0, description="updates of linear warm-up")
    lr_decay_iters: int | None = Field(None, ge=1, description="updates until min_lr; none: train_iters")
    lr_wsd_decay_style: WsdDecayStyle = Field("linear", description="shape of WSD's decay")
    lr_wsd_decay_iters: int = Field(0, ge=0, description="updates of WSD's decay, at the end of lr_decay_iters")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices only")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of AdamW's second moment")
    adam_eps: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    clip_grad: float = Field(1.0, gt=0, description="largest global norm of the gradient")

    save_interval: int = Field(1000, ge=1, description="iterations between checkpoints; the last is always saved")
    keep_latest: int = Field(3, ge=1, description="checkpoints to keep; older ones are deleted after a save")
    log_interval: int = Field(10, ge=1, description="iterations between log lines and lines of metrics.jsonl")
    seed: int = Field(1234, ge=0, lt=2**32, description="seed of the initial weights and of the order of the data")
    threads: int = Field(2, ge=1, description="CPU threads of torch; bits of the result may depend on it")

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} must be a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}")
        total = self.lr_decay_iters or self.train_iters
        decay = self.lr_wsd_decay_iters if self.lr_decay_style == "WSD" else 0
        if self.lr_warmup_iters + decay > total:
            raise ValueError(
                f"warm-up {self.lr_warmup_iters} and WSD decay {decay} exceed the schedule's {total} updates"
            )
        needed = self.train_iters * self.global_batch_size
        if self.data_samples is not None and self.data_samples < needed:
            raise ValueError(f"data_samples {self.data_samples} is less than the {needed} samples of train_iters")
        return self

    @model_validator(mode="after")
    def _mixture_is_whole(self) -> Self:
        if self.weights is not None and self.stages:
            raise ValueError("give either weights or stages")
        if self.weights is not None:
            check_weights(self.weights)
        if open_ended := [number for number, stage in enumerate(self.stages[:-1], start=1) if stage.tokens is None]:
            raise ValueError(f"stage {open_ended[0]} has no tokens; only the last stage may leave them out")
        return self

    def data_stages(self) -> list[DataStage]:
        """The stages of the data; empty where the blend file's weights hold for the whole run."""
        return self.stages if self.weights is None else [DataStage(tokens=None, weights=self.weights)]

    def schedule(self) -> Schedule:
        """The learning-rate schedule, with the defaults filled in."""
        return Schedule(
            lr=self.lr,
            min_lr=self.min_lr,
            style=self.lr_decay_style,
            wsd_style=self.lr_wsd_decay_style,
            warmup_updates=self.lr_warmup_iters,
            decay_updates=self.lr_decay_iters or self.train_iters,
            wsd_decay_updates=self.lr_wsd_decay_iters,
        )


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> PretrainRecipe:
    """The recipe at `path`, with `overrides` put in; a dotted key reaches inside: `{"model.layers": 4}`.

    Raises `PretrainRecipeError` that names the file and each wrong key.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PretrainRecipeError(f"there is no recipe at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PretrainRecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(settings, dict):
        raise PretrainRecipeError(f"{path} is no recipe: expected `key: value` lines at its top level")
    for key, value in (overrides or {}).items():
        _put(settings, key, value)
    try:
        return PretrainRecipe.model_validate(settings)
    except ValidationError as error:
        wrong = [f"  {_name(problem['loc'])}: {problem['msg']}" for problem in error.errors()]
        raise PretrainRecipeError(f"{path} is wrong:\n" + "\n".join(wrong)) from error


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the keys together"


def _put(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise PretrainRecipeError(f"cannot set {dotted}: {parent} holds a single value")
    settings[last] = value
