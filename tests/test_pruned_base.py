"""The second size of a model: blocks are left out, the rest is numbered anew and decodes with a cache as without."""

import pytest
import torch

from benchmarks.pruned_base import main, prune_blocks
from classifiers.errors import DataError
from tests.decoding.ngsd_models import tiny_model


def test_what_is_left_is_the_model_without_these_blocks():
    side = tiny_model(1)
    whole, ids = side.model, torch.tensor([[1, 2, 3, 4]])
    first = whole.model.layers[0]
    prune_blocks(whole, [1])
    assert list(whole.model.layers) == [first] and whole.config.num_hidden_layers == 1
    with torch.no_grad():
        at_once = whole(ids, use_cache=False).logits
        begun = whole(ids[:, :3], use_cache=True)
        last = whole(ids[:, 3:], past_key_values=begun.past_key_values).logits
    assert torch.allclose(at_once[:, 3:], last)
    for wrong, message in (([1], "no decoder block 1"), ([0], "keep some")):
        with pytest.raises(DataError, match=message):
            prune_blocks(whole, wrong)


def test_the_command_leaves_a_model_that_loads(tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    side = tiny_model(1)
    side.model.float().save_pretrained(tmp_path / "whole")
    side.tokenizer.save_pretrained(tmp_path / "whole")
    assert main(["--model", str(tmp_path / "whole"), "--drop", "0", "--output", str(tmp_path / "out")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 1
    assert main(["--model", str(tmp_path / "whole"), "--drop", "7", "--output", str(tmp_path / "out")]) == 1
    assert "no decoder block 7" in capsys.readouterr().err
