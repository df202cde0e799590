"""What no module of ours may call: shells, loaders that run what they read, templates that do not escape, unchecked TLS.

Complements `tests/test_imports.py`, which refuses pickles, `torch.load` without weights_only, `yaml.load`, `eval`, `exec` and
`trust_remote_code=True` in the rooms; here the benchmarks are read too, and each rule is shown to find what it looks for.
"""

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("classifiers", "rephrasers", "pipeline", "pretrain", "finetune", "decoding", "evaluation", "safetrove")
MODULES = sorted(path for room in (*ROOMS, "benchmarks") for path in (ROOT / room).rglob("*.py"))

# Calls by the end of their dotted name.
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}
RUNS_WHAT_IT_READS = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "pandas.read_pickle",
    "joblib.load", "dill.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter",
    "launch_pickled_pipeline", "importlib.import_module",
}  # fmt: skip
UNPACKS_ANYWHERE = {"tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive"}
# Loads what a name stands for: only through `classifiers.loading`, which takes safetensors alone and no remote code.
LOADERS = {
    "classifiers/loading.py",  # the one place
    "pipeline/tokens/corpus_tokenizer.py",  # a tokenizer, trust_remote_code=False
    "rephrasers/prompt_length.py",  # a tokenizer: no weights; without trust_remote_code transformers runs no code
    "rephrasers/embedded_writer.py",  # a GGUF file whose sha256 is checked before
    "finetune/loading.py",  # an adapter by peft, on a model that came through `classifiers.loading`
}
# torch.distributed.checkpoint keeps its index as a pickle: one module reads it, with a list of what it may name
# (tests/pretrain/test_hostile_checkpoints.py). Its name alone may be imported there, by a class that is derived from it.
RESTRICTED_UNPICKLER = {"pretrain/checkpoint_index.py": {"pickle.Unpickler"}}


def violations(tree: ast.AST, importable: Set[str] = frozenset()) -> Iterator[str]:
    """What a module does that none may; the names in `importable` it may import, but not call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if forbidden := names & (SHELLS | RUNS_WHAT_IT_READS | UNPACKS_ANYWHERE | {"torch.load"}) - importable:
                yield f"line {node.lineno}: imports {sorted(forbidden)[0]}, which hides its calls"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"line {node.lineno}: {name}"
        if name in SHELLS | RUNS_WHAT_IT_READS | UNPACKS_ANYWHERE | {full.split(".")[-1] for full in importable}:
            yield where
        if given.get("shell", "False") != "False":
            yield f"{where} through a shell"
        if given.get("verify", "True") == "False":
            yield f"{where} without checking certificates"
        if given.get("follow_redirects", "False") != "False":
            yield f"{where} follows redirects, with the key"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"{where} without weights_only"
        if given.get("trust_remote_code", "False") == "True":
            yield f"{where} runs remote code"
        if name.endswith("Environment") and given.get("autoescape") != "True":
            yield f"{where} without autoescape"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_it_reads(path: Path) -> None:
    module = path.relative_to(ROOT).as_posix()
    allowed = RESTRICTED_UNPICKLER.get(module, set())
    found = list(violations(ast.parse(path.read_text(encoding="utf-8")), allowed))
    assert not found, f"{module}: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=asked)",
        "os.popen(line)",
        "from os import system",
        "pickle.load(file)",
        "from pickle import loads",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.full_load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load",
        "eval(text)",
        "importlib.import_module(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "httpx.get(url, verify=False)",
        "httpx.AsyncClient(follow_redirects=True)",
        "jinja2.Environment(loader=loader)",
        "tarfile.open(path)",
    ],
)
def test_each_rule_finds_what_it_looks_for(code: str) -> None:
    assert list(violations(ast.parse(code)))


def calling(name: str) -> set[str]:
    """The modules of the rooms in which something called `name` is called."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
                found.add(path.relative_to(ROOT).as_posix())
    return {name for name in found if not name.startswith("benchmarks/")}


def test_models_are_loaded_in_known_places_alone() -> None:
    """`from_pretrained` as a method: elsewhere the function of `classifiers.loading` is called by its bare name."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if method and node.func.attr == "from_pretrained" and not str(path).startswith(str(ROOT / "benchmarks")):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == LOADERS


def test_checkpoints_are_never_read_by_the_reader_that_unpickles_all() -> None:
    assert calling("FileSystemReader") == set()
    assert calling("CheckpointReader") == {"pretrain/checkpoint_tensors.py"}


def test_the_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|docs|classifiers|pipeline)/[\w/]+\.\w+)`", page))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []
