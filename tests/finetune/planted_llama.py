"""A Llama whose refusal direction is known: it was written into its weights."""

from pathlib import Path

import torch

from finetune.safesteer.residual_hooks import decoder_blocks
from tests.finetune.tiny_llama import make_model, make_tokenizer

# Ids of the byte-level tokenizer of `tiny_llama`: a comma is what this model refuses, "I" begins its refusals.
HARMFUL, REFUSE, COMPLY = ord(",") - 33, ord("I") - 33, ord("c") - 33


def planted_model(layer: int = 2, layers: int = 5, noise: float = 0.0):
    """Blocks pass the stream on unchanged, but for the one before `layer`, which writes "refuse" (feature 1) at every
    position from which a comma can be seen. `noise`: standard deviation of random weights on top."""
    model = make_model(259, hidden_size=16, num_hidden_layers=layers, tie_word_embeddings=False, num_key_value_heads=2)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=noise) if noise else weight.zero_()
        embeddings = model.get_input_embeddings().weight
        embeddings[:, 2] = 1.0  # every token has something in common
        embeddings[HARMFUL, 0] = 6.0
        block = decoder_blocks(model)[layer - 1]
        block.self_attn.v_proj.weight[0, 0] = 4.0  # uniform attention collects feature 0 ...
        block.self_attn.o_proj.weight[1, 0] = 4.0  # ... and writes it as feature 1
        model.lm_head.weight[REFUSE, 1] = 9.0
        model.lm_head.weight[COMPLY, 2] = 2.0
    return model


def save_planted_llama(folder: Path) -> Path:
    """As a folder, with a little noise so that every weight can learn."""
    tokenizer = make_tokenizer()
    model = planted_model(noise=0.02)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
