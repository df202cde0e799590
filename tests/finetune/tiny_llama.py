"""A random Llama of a few thousand parameters with a byte-level tokenizer and a chat template, as a folder."""

from pathlib import Path

from rephrasers.harmfulness_tag import HARMFULNESS_TAG

# One BOS, headers with a line end, an end-of-turn token with a line end behind it: the traps of real templates.
TEMPLATE = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(chat: bool = True, tag: bool = False):
    """Bytes, and the template's special tokens; the tokenizer adds a BOS to plain texts, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|begin|>", "<|start|>", "<|end|>", *([HARMFULNESS_TAG] if tag else [])]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", len(alphabet))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")
    if chat:
        fast.chat_template = TEMPLATE
    return fast


def make_model(vocabulary: int, seed: int = 0, **settings):
    """Two layers of width 16, float32, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": None,
        "eos_token_id": vocabulary - 1, "tie_word_embeddings": True,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)  # logits that differ
    return model.eval()


def save_tiny_llama(folder: Path, chat: bool = True, tag: bool = False, seed: int = 0, **settings) -> Path:
    """Model and tokenizer as transformers saves them."""
    tokenizer = make_tokenizer(chat, tag)
    model = make_model(len(tokenizer), seed, **{"eos_token_id": tokenizer.eos_token_id, **settings})
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def save_tiny_writer(place: Path) -> Path:
    """A random model under the embedded writer's own tokenizer and chat template, as a folder."""
    from transformers import AutoTokenizer

    from rephrasers.embedded_writer import embedded_writer_folder

    tokenizer = AutoTokenizer.from_pretrained(embedded_writer_folder())
    tokenizer.save_pretrained(place)
    make_model(len(tokenizer), eos_token_id=tokenizer.eos_token_id).save_pretrained(place)
    return place
