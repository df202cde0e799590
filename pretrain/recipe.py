"""The recipe of a training run: frozen, every key documented, unknown keys refused. Names follow Megatron's options."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pretrain.data_settings import DataStage, LossMaskSettings, TagProbabilitySettings, check_weights
from pretrain.errors import PretrainRecipeError
from pretrain.schedule import DecayStyle, Schedule, WsdDecayStyle

_SHAPES: Final = Path(__file__).with_name("model_shapes.yaml")


@cache
def model_shapes() -> dict[str, dict[str, Any]]:
    """The named shapes of `model_shapes.yaml`, as settings of `ModelConfig`."""
    return dict(yaml.safe_load(_SHAPES.read_text(encoding="utf-8")))


class ModelConfig(BaseModel):
    """Shape of a Llama-like decoder with tied embeddings. The vocabulary comes from the blend file.

    In a recipe the name of a shape stands for its settings (`model: smollm2-135m`), and `shape: NAME` among other keys
    for those that are not given.
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
        128,
        ge=1,
        description="the vocabulary, tag included, is padded to a multiple of this, which tensor_parallel divides. It does "
        "not grow with the ranks, so that a checkpoint fits any number of them; Megatron pads to 128 x its tensor ranks",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_shape(cls, settings: Any) -> Any:
        if isinstance(settings, str):
            settings = {"shape": settings}
        if not isinstance(settings, dict) or "shape" not in settings:
            return settings
        given = dict(settings)
        name = given.pop("shape")
        if name not in model_shapes():
            raise ValueError(f"there is no shape {name!r}; choose one of {', '.join(model_shapes())}")
        return {**model_shapes()[name], **given}

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
    load: Path | None = Field(
        None, description="folder of checkpoints to begin from while `save` has none (Megatron's --load)"
    )
    finetune: bool = Field(
        False, description="take only the weights of `load`: iteration, samples and optimizer begin at 0"
    )
    init_from: Path | None = Field(
        None, description="Hugging Face Llama folder whose weights a new run begins with; rows for new tokens are drawn"
    )
    export: Path | None = Field(
        None,
        description="folder of its own for the final model in Hugging Face format; an earlier export in it is replaced; none: no export",
    )
    model: ModelConfig = Field(description="shape of the model: a name of model_shapes.yaml, or its keys")

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: weights and activations in bf16, their master copy, gradients and moments in fp32"
    )
    tensor_parallel: int = Field(1, ge=1, description="ranks that share each matrix; divides kv_heads and the ranks")
    shard_ranks: int | None = Field(
        None,
        ge=1,
        description="data-parallel ranks that one copy of weights, gradients and moments is spread over (FSDP2); none: all "
        "of them; 1: each holds a whole copy; between: copies of that many ranks (HSDP)",
    )
    recompute: Literal["none", "full"] = Field(
        "none", description="full: keep only each layer's input for the backward pass and compute the rest again"
    )
    compile: bool = Field(False, description="compile each layer with torch.compile")

    seq_length: int = Field(ge=1, description="tokens of a training sample")
    micro_batch_size: int = Field(ge=1, description="samples of one forward and backward pass")
    global_batch_size: int = Field(ge=1, description="samples of one update; a multiple of micro_batch_size")
    train_iters: int = Field(ge=1, description="iterations of the whole run, earlier parts included")
    train_samples: int | None = Field(
        None, ge=1, description="in place of train_iters: samples of the whole run; a partial last batch is left out"
    )
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
    lr_warmup_samples: int | None = Field(None, ge=0, description="in place of lr_warmup_iters: counted in samples")
    lr_decay_samples: int | None = Field(None, ge=1, description="in place of lr_decay_iters: counted in samples")
    lr_wsd_decay_samples: int | None = Field(
        None, ge=0, description="in place of lr_wsd_decay_iters: counted in samples"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices only")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of AdamW's second moment")
    adam_eps: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    clip_grad: float = Field(1.0, gt=0, description="largest global norm of the gradient")

    save_interval: int = Field(1000, ge=1, description="iterations between checkpoints; the last is always saved")
    keep_latest: int = Field(3, ge=1, description="checkpoints to keep; older ones are deleted after a save")
    log_interval: int = Field(10, ge=1, description="iterations between log lines and lines of metrics.jsonl")
    tensorboard: Path | None = Field(
        None, description="folder for TensorBoard's event files; none: they are not written"
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="peak TFLOP/s of one device, for MFU; none: by the device's name where it is known"
    )
    validation: Path | None = Field(None, description="blend file of held-out texts, each source measured by itself")
    eval_interval: int = Field(1000, ge=1, description="iterations between validations; the last iteration has one too")
    eval_samples: int = Field(64, ge=1, description="samples of each source in one validation")
    tag_probability: TagProbabilitySettings | None = Field(
        None, description="held-out documents on which P(tag | context) is measured during training; none: it is not"
    )
    seed: int = Field(1234, ge=0, lt=2**32, description="seed of the initial weights and of the order of the data")
    threads: int = Field(2, ge=1, description="CPU threads of torch; bits of the result may depend on it")

    @model_validator(mode="before")
    @classmethod
    def _iterations_of_samples(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("train_samples") is None:
            return settings
        try:
            iterations = int(settings["train_samples"]) // int(settings["global_batch_size"])
        except (KeyError, ValueError, TypeError, ZeroDivisionError):
            return settings  # the fields' own checks name what is wrong
        if int(settings.get("train_iters") or iterations) != iterations:
            raise ValueError("give either train_iters or train_samples, not both")
        return {**settings, "train_iters": iterations}

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} must be a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}")
        schedule = self.schedule()
        decay = schedule.wsd_decay_updates if self.lr_decay_style == "WSD" else 0
        if schedule.warmup_updates + decay > schedule.decay_updates:
            raise ValueError(
                f"warm-up {schedule.warmup_updates:g} and WSD decay {decay:g} exceed the schedule's "
                f"{schedule.decay_updates:g} updates"
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

    @model_validator(mode="after")
    def _start_is_clear(self) -> Self:
        if self.finetune and self.load is None:
            raise ValueError("finetune needs load: the folder of the checkpoints whose weights it takes")
        if self.load is not None and self.init_from is not None:
            raise ValueError("give either load or init_from, not both")
        for unit in ("lr_warmup", "lr_decay", "lr_wsd_decay"):
            if getattr(self, f"{unit}_samples") is not None and getattr(self, f"{unit}_iters"):
                raise ValueError(f"give either {unit}_iters or {unit}_samples, not both")
        return self

    @model_validator(mode="after")
    def _export_is_apart(self) -> Self:
        if self.export is None:
            return self
        for key in ("save", "load", "init_from", "tokenizer", "tensorboard", "data", "validation"):
            path: Path | None = getattr(self, key)
            if path is not None and path.resolve().is_relative_to(self.export.resolve()):
                raise ValueError(
                    f"export {self.export} is replaced as a whole at the end of the run, with {key} {path} in it; give export "
                    "a folder of its own"
                )
        return self

    @model_validator(mode="after")
    def _ranks_fit(self) -> Self:
        parts = self.tensor_parallel
        if self.model.kv_heads % parts or self.model.ffn_hidden_size % parts or self.model.vocabulary_multiple % parts:
            raise ValueError(
                f"tensor_parallel {parts} must divide kv_heads {self.model.kv_heads}, ffn_hidden_size "
                f"{self.model.ffn_hidden_size} and vocabulary_multiple {self.model.vocabulary_multiple}"
            )
        return self

    def data_stages(self) -> list[DataStage]:
        """The stages of the data; empty where the blend file's weights hold for the whole run."""
        return self.stages if self.weights is None else [DataStage(tokens=None, weights=self.weights)]

    def schedule(self) -> Schedule:
        """The learning-rate schedule, with the defaults filled in; what is given in samples becomes updates."""
        return Schedule(
            lr=self.lr,
            min_lr=self.min_lr,
            style=self.lr_decay_style,
            wsd_style=self.lr_wsd_decay_style,
            warmup_updates=self._updates(self.lr_warmup_samples, self.lr_warmup_iters),
            decay_updates=self._updates(self.lr_decay_samples, self.lr_decay_iters or self.train_iters),
            wsd_decay_updates=self._updates(self.lr_wsd_decay_samples, self.lr_wsd_decay_iters),
        )

    def keys_in_samples(self) -> list[str]:
        """The keys given in samples that become iterations or updates by division by `global_batch_size`."""
        keys = ("train_samples", "lr_warmup_samples", "lr_decay_samples", "lr_wsd_decay_samples")
        return [key for key in keys if getattr(self, key) is not None]

    def _updates(self, samples: int | None, iterations: int) -> float:
        return iterations if samples is None else samples / self.global_batch_size


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> PretrainRecipe:
    """The recipe at `path`, with `overrides` put in; a dotted key reaches inside: `{"model.layers": 4}`.

    Values are taken as they are; `read_overrides` reads those of a command line. Raises `PretrainRecipeError` that names the
    file and each wrong key.
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


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts of a command line as overrides for `load_recipe`; values are YAML. Raises `PretrainRecipeError`."""
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise PretrainRecipeError(f"--set {override}: write it as key=value, for example --set model.layers=4")
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: of a date that does not exist
            raise PretrainRecipeError(f"--set {override}: the value is not YAML; put it in quotes") from None
    return values


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the keys together"


def _put(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise PretrainRecipeError(f"cannot set {dotted}: {parent} holds a single value")
    settings[last] = value
