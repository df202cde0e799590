"""The printed Megatron-LM commands: every option is one of Megatron-LM's, and says what the recipe says."""

import argparse
import json
import shlex

import pytest

from pretrain.__main__ import main
from pretrain.data_settings import DataStage, LossMaskSettings
from pretrain.errors import PretrainDataError
from pretrain.megatron_command import megatron_script
from pretrain.merge_shards import main as merge

# Megatron-LM's parser is no part of megatron-core: these are its names and types for the options that we print.
VALUES = {
    int: "num-layers hidden-size ffn-hidden-size num-attention-heads num-query-groups seq-length max-position-embeddings "
    "micro-batch-size global-batch-size train-iters lr-warmup-iters lr-decay-iters lr-wsd-decay-iters save-interval "
    "log-interval exit-interval seed eval-iters tensor-model-parallel-size recompute-num-layers make-vocab-size-divisible-by rotary-base",
    float: "lr min-lr weight-decay adam-beta1 adam-beta2 adam-eps clip-grad norm-epsilon init-method-std attention-dropout "
    "hidden-dropout",
    str: "save load split tokenizer-model",
}
CHOICES = {
    "lr-decay-style": ["constant", "linear", "cosine", "inverse-square-root", "WSD"],
    "lr-wsd-decay-style": ["exponential", "linear", "cosine", "minus_sqrt"],
    "position-embedding-type": ["learned_absolute", "rope", "mrope", "relative", "none"],
    "normalization": ["LayerNorm", "RMSNorm"],
    "dataloader-type": ["single", "cyclic", "external"],
    "recompute-granularity": ["full", "selective"],
    "recompute-method": ["uniform", "block"],
    "tokenizer-type": ["HuggingFaceTokenizer", "NullTokenizer", "GPT2BPETokenizer"],
}
FLAGS = (
    "swiglu disable-bias-linear group-query-attention exit-signal-handler eod-mask-loss bf16 use-distributed-optimizer"
)


def megatron_parser():
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for kind, names in VALUES.items():
        for name in names.split():
            parser.add_argument(f"--{name}", type=kind)
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices)
    for name in FLAGS.split():
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--data-path", nargs="*")
    return parser


def commands(script):
    """The parsed options of each `pretrain_gpt.py` command, and the words of each merge."""
    lines = script.replace("\\\n", " ").splitlines()
    runs = [shlex.split(line) for line in lines if line.startswith("torchrun")]
    assert all(run[:4] == ["torchrun", "--nproc-per-node", "${GPUS:-8}", "pretrain_gpt.py"] for run in runs)
    merges = [shlex.split(line) for line in lines if line.startswith("python -m pretrain.merge_shards")]
    assert len(runs) + len(merges) + sum(line.startswith("# ") for line in lines) == len(lines)
    return [megatron_parser().parse_args(run[4:]) for run in runs], merges


def test_one_mixture(recipe):
    (run,), merges = commands(megatron_script(recipe))
    tokens = recipe.data.parent
    assert run.data_path == ["0.7", str(tokens / "merged/safe"), "0.3", str(tokens / "moral/00000")]
    assert [words[3:] for words in merges] == [[str(tokens / p) for p in ("merged/safe", "safe/00000", "safe/00001")]]
    assert (run.split, run.eval_iters, run.seed) == ("100,0,0", 0, recipe.seed)
    assert (run.train_iters, run.micro_batch_size, run.global_batch_size, run.seq_length) == (8, 2, 4, 16)
    assert (run.lr, run.min_lr, run.lr_warmup_iters, run.lr_decay_iters) == (1e-2, 0, 2, 8)
    assert (run.lr_decay_style, run.lr_wsd_decay_style, run.lr_wsd_decay_iters) == ("WSD", "linear", 3)
    assert (run.weight_decay, run.adam_beta1, run.adam_beta2, run.adam_eps, run.clip_grad) == (0.01, 0.9, 0.95, 1e-8, 1)
    assert (run.num_layers, run.hidden_size, run.ffn_hidden_size, run.num_attention_heads) == (2, 32, 48, 4)
    assert (run.group_query_attention, run.num_query_groups, run.rotary_base) == (True, 2, 500)
    assert (run.swiglu, run.disable_bias_linear, run.normalization) == (True, True, "RMSNorm")
    assert (run.make_vocab_size_divisible_by, run.max_position_embeddings) == (16, 16)
    assert run.save == f"{recipe.save}-megatron"
    assert (run.load, run.eod_mask_loss, run.exit_interval) == (None, False, None)
    # The merge is a command that runs, and gives what the data path names.
    assert merge(merges[0][3:]) == 0
    assert (tokens / "merged/safe.idx").is_file()


def test_stages_are_one_command_each(recipe):
    stages = [DataStage(tokens=16 * 13, weights={"safe": 3, "moral": 1}), DataStage(tokens=None, weights={"moral": 1})]
    script = megatron_script(recipe.model_copy(update={"stages": stages}))
    (first, second), merges = commands(script)
    assert (first.train_iters, second.train_iters) == (3, 8)
    assert (first.lr_decay_iters, second.lr_decay_iters) == (8, 8)
    assert first.data_path[::2] == ["3.0", "1.0"]
    assert second.data_path == ["1.0", str(recipe.data.parent / "moral/00000")]
    assert (first.load, second.load) == (None, second.save)
    assert len(merges) == 1
    assert "# Stage 2: up to iteration 8" in script
    assert "some samples of the stages before come again" in script


def test_masks(recipe):
    mask = LossMaskSettings(tag=True, after_end_of_document=True)
    script = megatron_script(recipe.model_copy(update={"loss_mask": mask}))
    assert commands(script)[0][0].eod_mask_loss
    assert "loss_mask.tag has no counterpart" in script
    assert "loss_mask.end_of_document" not in script


def test_parallelism_and_precision(recipe):
    updates = {"tensor_parallel": 2, "precision": "bf16", "recompute": "full", "lr_warmup_samples": 10}
    (run,), _ = commands(megatron_script(recipe.model_copy(update={**updates, "lr_warmup_iters": 0})))
    assert (run.tensor_model_parallel_size, run.make_vocab_size_divisible_by) == (2, 8)
    assert (run.bf16, run.use_distributed_optimizer, run.recompute_granularity) == (True, True, "full")
    assert run.lr_warmup_iters == 2


def test_wrong_weights_are_refused(recipe):
    with pytest.raises(PretrainDataError, match="gives a weight to 'tagd'"):
        megatron_script(recipe.model_copy(update={"weights": {"tagd": 1.0}}))


def test_command_line_prints_and_trains_nothing(recipe, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(recipe.model_dump_json())
    assert main([str(tmp_path / "r.yaml"), "--print-megatron", "--set", "lr=0.5"]) == 0
    (run,), _ = commands(capsys.readouterr().out.rstrip("\n"))
    assert run.lr == 0.5
    assert not recipe.save.exists()
    assert json.loads((tmp_path / "r.yaml").read_text())["lr"] == 1e-2
