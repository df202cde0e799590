"""Where the loss is taken, as a function of a sample's tokens."""

import numpy as np
from numpy.typing import NDArray

from pretrain.data_settings import LossMaskSettings


def loss_mask(
    tokens: NDArray[np.int64], settings: LossMaskSettings, tag_token_id: int, end_of_document_id: int
) -> NDArray[np.float32]:
    """float32 [sequence_length] for `tokens` [sequence_length + 1]: 1.0 where the label `tokens[1:]` counts, else 0.0."""
    inputs, labels = tokens[:-1], tokens[1:]
    masked = np.zeros(len(labels), dtype=bool)
    if settings.tag:
        masked |= labels == tag_token_id
    if settings.end_of_document:
        masked |= labels == end_of_document_id
    if settings.after_end_of_document:
        masked |= inputs == end_of_document_id
    return (~masked).astype(np.float32)
