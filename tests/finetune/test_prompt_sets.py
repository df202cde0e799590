"""Prompts that overlap an evaluation are dropped before the draw, counted, and an error only where too few are left."""

import json

import pytest

from finetune.errors import FinetuneDataError
from finetune.prompt_sets import HeldOut, draw_prompts, draw_unseen, dropped_line, read_prompts

LONG = "one two three four five six seven eight nine"


@pytest.fixture
def files(tmp_path):
    """(prompts, held-out prompts): 2 of 6 overlap."""
    texts = ["north", "South Pole!", "paper", f"zero {LONG}", "table", "seven"]
    (tmp_path / "train.json").write_text(json.dumps([{"instruction": text} for text in texts]))
    (tmp_path / "suite.json").write_text(json.dumps([{"instruction": text} for text in ("south pole", f"{LONG} ten")]))
    return tmp_path / "train.json", tmp_path / "suite.json"


def test_overlapping_prompts_are_dropped_before_the_draw(files):
    path, suite = files
    held_out = HeldOut([suite])
    assert held_out.file_of("a b one two three four five six seven eight") == "suite.json"
    assert held_out.file_of("one two three four five six seven") is None
    allowed = [prompt for prompt in read_prompts(path) if prompt.text in ("north", "paper", "table", "seven")]
    for seed in range(5):
        drawn, dropped = draw_unseen("train", path, 4, seed, held_out)
        assert drawn == draw_prompts(allowed, 4, seed) and dropped == 2
    assert draw_unseen("train", path, None, 0, held_out) == (allowed, 2)
    assert dropped_line({"train": 2, "other": 0}) == "dropped, since they overlap held-out prompts: 2 of train"
    assert dropped_line({"train": 0}) is None


def test_too_few_that_are_left_are_an_error_with_the_count(files):
    path, suite = files
    with pytest.raises(
        FinetuneDataError, match=r"train: 2 of 6 prompts of .*train\.json overlap held-out ones"
    ) as caught:
        draw_unseen("train", path, 5, 0, HeldOut([suite]))
    assert "so 4 are left, and 5 are asked for: ask for fewer, or add other prompts" in str(caught.value)
    with pytest.raises(FinetuneDataError, match=r"6 of 6 prompts .* so 0 are left"):
        draw_unseen("train", path, None, 0, HeldOut([path]))
    # a file that is small by itself is taken whole, as ever
    assert len(draw_unseen("train", path, 50, 0, HeldOut([]))[0]) == 6
