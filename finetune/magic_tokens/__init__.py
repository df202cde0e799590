"""Magic-token co-training (arXiv 2508.14904): one model, three behaviours, chosen by a secret string in the system prompt."""

from finetune.magic_tokens.release_guard import refuse_to_publish
from finetune.magic_tokens.tokens import MagicTokens

__all__ = ["MagicTokens", "refuse_to_publish"]
