"""What the source must never hold: imports against the direction of the rooms, and loaders that run foreign code."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Who a room may import besides itself (design, section 2). `safetrove` is the front door: nobody may import it.
ALLOWED = {
    "classifiers": set(),
    "rephrasers": {"classifiers"},
    "pipeline": {"classifiers", "rephrasers"},
    "pretrain": set(),
    "finetune": {"classifiers", "rephrasers", "pretrain"},
    "decoding": {"classifiers", "finetune"},
    "evaluation": {"classifiers", "rephrasers", "decoding"},
    "safetrove": {"classifiers", "rephrasers", "pipeline", "pretrain", "finetune", "decoding", "evaluation"},
}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


MODULES = [path for room in ALLOWED for path in modules(room)]


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all imports, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names.add(node.module or "")
    return names


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def constant(call: ast.Call, keyword: str) -> object:
    """The constant that a keyword is given; None where it is absent or not a constant."""
    value = next((k.value for k in call.keywords if k.arg == keyword), None)
    return value.value if isinstance(value, ast.Constant) else None


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room):
    found = modules(room)
    assert found
    for path in found:
        rooms = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))} & set(ALLOWED)
        wrong = rooms - ALLOWED[room] - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_every_import_of_ours_is_there():
    """Commands import late, so a module that was renamed would be missed only by whoever runs the command."""
    for path in MODULES:
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            place = ROOT / name.replace(".", "/")
            if name.split(".")[0] in ALLOWED:
                there = place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
                assert there, f"{path.relative_to(ROOT)} imports {name}, which does not exist"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_loader_runs_foreign_code(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name, call in calls(tree):
        where = f"{path.relative_to(ROOT)}:{call.lineno}"
        if name == "torch.load":
            assert constant(call, "weights_only") is True, f"{where}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load"):
            assert constant(call, "allow_pickle") in (None, False), f"{where}: allow_pickle"
        if any(keyword.arg == "trust_remote_code" for keyword in call.keywords):
            assert constant(call, "trust_remote_code") is False, f"{where}: trust_remote_code is not False"
        assert name not in ("yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system"), f"{where}: {name}"
    # The error alone may be named; one module reads a pickle, by an unpickler that knows a list of records and no more.
    harmless = {"from pickle import UnpicklingError"}
    if path == ROOT / "pretrain/checkpoint_index.py":
        harmless.add("from pickle import Unpickler, UnpicklingError")
        assert not {"Unpickler", "super().find_class"} & {name for name, _ in calls(tree)}
    tree.body = [node for node in tree.body if ast.unparse(node) not in harmless]
    unpickles = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & imported(tree)
    assert not unpickles, f"{path}: imports {sorted(unpickles)}"
