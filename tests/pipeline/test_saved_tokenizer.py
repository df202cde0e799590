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


def test_what_a_killed_task_left_is_no_part_of_the_tokenizer(tmp_path):
    folder = save_tiny_tokenizer(tmp_path / "tokenizer", "bpe")
    run = RunFolder(tmp_path / "run")
    run.work("tokenizer", 0).mkdir(parents=True)
    (run.work("tokenizer", 0) / "chat_template.jinja").write_text("of the tokenizer that the recipe named before")
    recipe = small_recipe(tmp_path, tokenise={"tokenizer": str(folder), "end_of_document": END})
    run_stage(TokeniserStage(recipe, run))
    assert sorted(path.name for path in run.tokenizer().iterdir()) == [
        "corpus.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
