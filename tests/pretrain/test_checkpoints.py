"""Checkpoints: written beside the training, begun from by `load` and `finetune`, and refused where they do not fit."""

import json

import pytest
import torch
from saved_tensors import assert_equal_checkpoints, read_checkpoint

from pretrain.checkpoint import latest_iteration, load_state
from pretrain.errors import CheckpointError
from pretrain.loop import pretrain
from pretrain.mesh import Ranks
from pretrain.recipe import PretrainRecipe
from pretrain.training import Training

ALONE = Ranks(0, 1, torch.device("cpu"))


def silent(line):
    pass


def changed(recipe, **keys):
    """With the recipe's own checks, which `model_copy` leaves out."""
    return PretrainRecipe.model_validate({**recipe.model_dump(exclude_none=True), **keys})


def test_a_checkpoint_is_of_the_moment_it_was_begun_and_named_when_whole(recipe):
    training = Training(recipe, ALONE, None)
    training.open_save_folder()
    training.iterate()
    before = {name: value.detach().clone() for name, value in training.decoder.named_parameters()}
    training.save()
    with torch.no_grad():  # the update of the next iteration, before the writer can have read the weights
        for parameter in training.decoder.parameters():
            parameter.zero_()
    training.finish_saving()
    assert latest_iteration(recipe.save) == 1
    tensors, state = read_checkpoint(recipe.save, 1)
    for name, value in before.items():
        assert torch.equal(tensors[f"model.{name}"], value)
    assert (state["iteration"], state["consumed_samples"], state["ranks"]) == (1, 4, 1)
    assert set(state["tokens_by_source"]) == {"safe", "moral"}


def test_an_unfinished_write_is_not_named(recipe):
    training = Training(recipe, ALONE, None)
    training.open_save_folder()
    training.iterate()
    folder = training.save()
    # Only `iterate` and `finish_saving` publish, so that the tracker never runs ahead of the data.
    assert not folder.exists()
    assert latest_iteration(recipe.save) is None
    training.finish_saving()
    assert folder.is_dir()


def test_a_save_that_fails_is_named(recipe):
    training = Training(recipe, ALONE, None)
    training.open_save_folder()
    training.iterate()
    (recipe.save / ".iter_0000001.tmp").write_text("in the way")
    with pytest.raises(CheckpointError, match="iteration 1 could not be saved in"):
        training.save()
        training.finish_saving()
    assert latest_iteration(recipe.save) is None


def test_load_goes_on_from_another_folder(recipe, tmp_path):
    pretrain(recipe.model_copy(update={"exit_interval": 4}), silent)
    moved = changed(recipe, load=recipe.save, save=tmp_path / "moved")
    assert pretrain(moved, silent).resumed_from == 4
    pretrain(recipe, silent)
    assert_equal_checkpoints(recipe.save, moved.save, 8)
    # Once `save` has a checkpoint of its own, that one counts.
    assert pretrain(changed(moved, train_iters=8), silent).iterations_run == 0


def test_finetune_takes_the_weights_alone(recipe, tmp_path, rewrite_blend):
    pretrain(recipe, silent)
    rewrite_blend(seed=5)  # other data is what finetuning is for
    tuned = changed(recipe, load=recipe.save, finetune=True, save=tmp_path / "tuned", lr=1e-3)
    training = Training(tuned, ALONE, None)
    start_loss = training.iterate().loss
    result = pretrain(tuned, silent)
    assert (result.resumed_from, result.iterations_run) == (None, 8)
    assert result.first_loss < start_loss - 0.05
    state = load_state(tuned.save, 8)
    assert (state.iteration, state.consumed_samples, state.updates) == (8, 32, 8)
    tensors, _ = read_checkpoint(tuned.save, 8)
    assert float(tensors["optimizer.norm.weight.step"]) == 8
    # Resuming the finetuning does not begin it again.
    assert pretrain(changed(tuned, train_iters=8), silent).iterations_run == 0


def test_weights_of_another_model_or_vocabulary_are_refused_before_the_first_step(recipe, tmp_path):
    pretrain(recipe, silent)
    tuned = changed(recipe, load=recipe.save, finetune=True, save=tmp_path / "tuned")
    with pytest.raises(CheckpointError, match=r"layers: 2 in the checkpoint, 3 now"):
        pretrain(changed(tuned, model={**recipe.model.model_dump(), "layers": 3}), silent)
    blend = json.loads(recipe.data.read_text())
    recipe.data.write_text(json.dumps({**blend, "vocabulary_size": 70}))
    with pytest.raises(CheckpointError, match=r"embedding\.weight: 64 x 32 in the checkpoint, 80 x 32 in this model"):
        pretrain(tuned, silent)
    assert not tuned.save.exists()


def test_load_without_a_checkpoint_is_named(recipe, tmp_path):
    with pytest.raises(CheckpointError, match=r"load: there is no latest_checkpointed_iteration\.txt in"):
        pretrain(changed(recipe, load=tmp_path / "none"), silent)
