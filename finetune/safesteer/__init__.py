"""SafeSteer (arXiv 2606.02530): pulls a model to its own refusing self, on a few tokens of its own answers."""

from finetune.safesteer.losses import full_reverse_kl, partial_reverse_kl

__all__ = ["full_reverse_kl", "partial_reverse_kl"]
