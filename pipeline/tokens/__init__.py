"""Text to Megatron token files: the tokenizer with the tag, encoding, tag ids, the blend."""
