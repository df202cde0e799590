"""The tokenizer that is saved with a corpus: all of its files, also those in folders."""

from transformers import AutoTokenizer

from pipeline.run_folder import RunFolder
from pipeline.stages.tokenise import TokeniserStage
from tests.pipeline.stage_runs import run_stage, small_recipe
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer


def test_a_tokenizer_with_several_chat_templates_is_saved_whole(tmp_path):
    folder = save_tiny_tokenizer(tmp_path / "tokenizer", "bpe")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(folder)
    recipe = small_recipe(tmp_path, tokenise={"tokenizer": str(folder), "end_of_document": END})
    run = RunFolder(tmp_path / "run")
    run_stage(TokeniserStage(recipe, run))
    assert AutoTokenizer.from_pretrained(run.tokenizer()).chat_template == tokenizer.chat_template
