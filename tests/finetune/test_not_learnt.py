"""The beginning of an answer that is not to be learnt: no labels, the same text; wrong beginnings."""

import pytest

from finetune.chat_data import IGNORED, chat_of_row, tokenise_chat
from finetune.errors import FinetuneDataError

MESSAGES = [{"role": "user", "content": "Do it"}, {"role": "assistant", "content": "Sure, here I cannot"}]


@pytest.fixture
def tokenizer(tmp_path):
    from transformers import AutoTokenizer

    from tests.evaluation.tiny_model import save_tiny_model

    return AutoTokenizer.from_pretrained(save_tiny_model(tmp_path))


def test_what_is_not_learnt_gets_no_labels(tokenizer):
    plain = tokenise_chat(chat_of_row({"messages": MESSAGES}, "row"), tokenizer, 512)
    chat = chat_of_row({"messages": MESSAGES, "not_learnt": "Sure, here"}, "row")
    begun = tokenise_chat(chat, tokenizer, 512)
    assert begun.input_ids == plain.input_ids, "one token a byte here, so the cut moves no token"
    learnt = [token for token, label in zip(begun.input_ids, begun.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learnt) == " I cannot<|end|>"
    assert plain.supervised - begun.supervised == len("Sure, here")


@pytest.mark.parametrize("wrong", ["Here", 3])
def test_a_beginning_that_is_none(wrong):
    with pytest.raises(FinetuneDataError, match="row: `not_learnt` must be the text that the last turn begins with"):
        chat_of_row({"messages": MESSAGES, "not_learnt": wrong}, "row")
