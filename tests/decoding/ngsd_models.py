"""Random models of a few thousand parameters that share a vocabulary of words, and NGSD written down naively."""

import torch

from decoding.ngsd import ChatModel
from decoding.ngsd.fusion import disagreement, fused_scores

WORDS = [f"w{i}" for i in range(30)]
SPECIAL = ["<end>", "<user>", "<assistant>", "<system>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def tiny_tokenizer(words=WORDS, template=TEMPLATE):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "<unk>"])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = template
    return fast


def tiny_model(seed, kind="llama", like=None, noise=0.0, sharpness=14.0, positions=256, tokenizer=None):
    """float64, so that a cache, padding or another order of work changes nothing that a test could see.

    like: start from this model's weights and add `noise` times a random matrix to its output.
    """
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
    )

    tokenizer = tokenizer or tiny_tokenizer()
    torch.manual_seed(seed)
    common = {"vocab_size": len(tokenizer) + 5, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    rotary = common | {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": positions, "tie_word_embeddings": False,
    }  # fmt: skip
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(
            **common, n_embd=16, n_layer=2, n_head=2, n_positions=positions, tie_word_embeddings=False,
            initializer_range=0.2,
        ))  # fmt: skip
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(**rotary, sliding_window=8, initializer_range=0.2))
    else:
        model = LlamaForCausalLM(LlamaConfig(**rotary, initializer_range=0.2))
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        if like is not None:
            model.load_state_dict(like.model.state_dict())
            head += noise * torch.randn_like(head)
        else:
            head *= sharpness / 4
            head[tokenizer.eos_token_id] *= 1.5  # so that answers do end, at different lengths
    name = f"{'expert' if like else 'base'}-{seed}"
    return ChatModel(model.double().eval(), tokenizer, name)


def naive(base, expert, base_ids, expert_ids, strength, settings, ends):
    """One prompt, without caches: (tokens, rows of (current, potential, fired, base token)), from the paper's description."""
    size = len(base.tokenizer)
    state, answer, rows = settings.gate.initial(1), [], []
    while len(answer) < settings.max_new_tokens:
        logits = [
            side.model(torch.tensor([[*prompt, *answer]])).logits[:, -1, :size]
            for side, prompt in ((base, base_ids), (expert, expert_ids))
        ]
        p_base, p_expert = (row.softmax(-1) for row in logits)
        current = disagreement(p_base, p_expert)
        state, potential, fired = settings.gate.step(state, current)
        own = int(logits[0].argmax())
        token = own
        if fired:
            token = int(fused_scores(p_base, p_expert, torch.tensor([strength]), settings.candidates).argmax())
        rows.append((float(current), float(potential), bool(fired), own))
        answer.append(token)
        if token in ends:
            break
    return answer, rows
