"""Recipes of a ladder small enough for a test, as files."""

import json
from pathlib import Path

import yaml

CHATS = [
    {"id": f"c{n}", "messages": [{"role": "user", "content": f"a question {n}"}, {"role": "assistant", "content": "an answer"}]}
    for n in range(24)
]  # fmt: skip
DIALOGUES = [
    {"id": f"d{n}", "text": f"Human: venom {n}\n\nAssistant: spite by the lake {n}", "score": 4} for n in range(8)
]
SUITE = {
    "name": "mine", "title": "Test suite", "kind": "contrast", "source": "test", "licence": "test",
    "file": {"name": "mine.jsonl", "columns": {"prompt": "prompt", "kind": "kind"}},
    "kinds": {"bad": "harmful", "good": "benign"},
}  # fmt: skip


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(folder: Path, run: Path, **changes) -> Path:
    """A ladder of refusal, tags and Safe Beam of one seed: 3 updates of a tiny model, suites of 4 prompts."""
    write_lines(folder / "mine.jsonl", [{"prompt": f"venom {n}", "kind": "bad" if n % 2 else "good"} for n in range(4)])
    (folder / "mine.yaml").write_text(yaml.safe_dump(SUITE))
    pretrain = {
        "data": "-", "save": "-", "model": {"shape": "tiny"}, "seq_length": 64, "micro_batch_size": 4,
        "global_batch_size": 4, "train_iters": 3, "lr": 1e-3, "threads": 1, "log_interval": 1,
    }  # fmt: skip
    tuning = {
        "output": "-", "lora": None, "max_length": 64, "max_steps": 1, "batch_size": 4, "micro_batch_size": 4, "threads": 1,
        "data": [{"name": "chats", "path": "-"}],
    }  # fmt: skip
    tagged = {**tuning, "data": [*tuning["data"], {"name": "unsafe", "path": "-", "share": 0.1, "tag_rate": 0.3}]}
    benign = {
        **tuning,
        "data": [{"name": "sums", "builder": "arithmetic_problems", "rows": 8}],
        "evaluation_rows": 2,
        "max_length": 256,
    }
    evaluation = {
        "suites": [str(folder / "mine.yaml")], "judges": ["refusal_strings"],
        "generation": {"max_new_tokens": 3, "dtype": "float32", "threads": 1},
    }  # fmt: skip
    steps = {"pretrain": pretrain, "instruction": tuning, "instruction_tag": tagged, "benign": benign,
             "evaluation": evaluation}  # fmt: skip
    for name, values in steps.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    chats, dialogues = write_lines(folder / "chats.jsonl", CHATS), write_lines(folder / "dialogues.jsonl", DIALOGUES)
    recipe = {
        "corpus": str(run), "rungs": ["refusal", "tags", "safe_beam"], "seeds": [0],
        "shares": {"refusal": 0.25},
        "texts": {"refusal": [{"path": str(chats), "part": [0, 0.5]}]},
        "chats": {"chats": [{"path": str(chats), "part": [0.5, 1]}], "unsafe": [{"path": str(dialogues)}]},
        **{name: {"recipe": str(folder / f"{name}.yaml")} for name in steps},
        "safe_beam": {"num_beams": 2, "candidates_per_beam": 3}, "workers": 2, **changes,
    }  # fmt: skip
    path = folder / "ladder.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
