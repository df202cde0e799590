"""What a model folder publishes: the files that a model is made of and its card, and the reasons against it."""

import fnmatch
import json
from collections.abc import Callable
from pathlib import Path

from classifiers.errors import DataError, SafetroveError
from pipeline.atomic_files import file_sha256
from pipeline.publishing.plan import OutgoingFile, Publication

CONFIGS = ("config.json", "adapter_config.json")
CARD = "README.md"
# Weights as safetensors alone: other formats run code when they are loaded.
MODEL_FILES = (
    *CONFIGS, CARD, "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "*.model", "chat_template.jinja", "LICENSE", "LICENSE.txt", "NOTICE", "pretrain.json",
)  # fmt: skip


def is_model_folder(folder: Path) -> bool:
    """Whether a model lies here."""
    return any((folder / name).is_file() for name in CONFIGS)


def model_publication(folder: Path, repo: str, guard: Callable[[Path], None]) -> Publication:
    """The files of a model. `guard` raises a SafetroveError where the folder must not leave (see the release guard of
    fine-tuning: negative mode, magic tokens).

    Raises DataError where no model lies in `folder`.
    """
    if not is_model_folder(folder):
        raise DataError(f"{folder}: no model lies here (no {' or '.join(CONFIGS)}); give the folder that holds it")
    publication = Publication(repo, "model")
    card = _card_of(folder)
    for place in {folder, card.parent} if card else {folder}:
        try:
            guard(place)
        except SafetroveError as error:
            publication.refusals.append(str(error))
    publication.refusals += _strangers(folder)
    publication.refusals += _local_base(folder)
    if card is None:
        publication.refusals.append(f"{folder}: the model has no card; write {folder / CARD}")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_model_file(path) and path.name != CARD]
    if not any(path.suffix == ".safetensors" for path in files):
        publication.refusals.append(f"{folder}: there are no weights (*.safetensors)")
    publication.files = [_outgoing(path) for path in [*files, *([card] if card else [])]]
    return publication


def _card_of(folder: Path) -> Path | None:
    """README.md of the folder, or that of the fine-tuning result that it is a part of."""
    places = [folder, folder.parent] if (folder.parent / "finetune.json").is_file() else [folder]
    cards = (place / CARD for place in places)
    return next((card for card in cards if card.is_file() and card.read_text(encoding="utf-8").strip()), None)


def _strangers(folder: Path) -> list[str]:
    """What is no part of a model: training data, token files, checkpoints, pickles, links to elsewhere."""
    refusals = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            refusals.append(f"{path}: a link out of the folder; put the file itself there")
        elif path.is_dir() or not _is_model_file(path):
            refusals.append(f"{path}: no part of a model that is published; move it elsewhere")
    return refusals


def _local_base(folder: Path) -> list[str]:
    """peft writes down where the base was; strangers need its name, and not the folders of this machine."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return []
    try:
        base = dict(json.loads(path.read_text(encoding="utf-8"))).get("base_model_name_or_path")
    except (ValueError, TypeError):
        return [f"{path}: not a JSON object; save the adapter again"]
    if not isinstance(base, str) or not (base.startswith(("/", ".", "~")) or Path(base).is_dir()):
        return []
    return [f"{path}: base_model_name_or_path is a folder of this machine; write the base's name on the Hub there"]


def _is_model_file(path: Path) -> bool:
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in MODEL_FILES)


def _outgoing(path: Path) -> OutgoingFile:
    return OutgoingFile(path.name, path, path.stat().st_size, file_sha256(path))
