"""The rubric as plain typed objects, read from `data/rubric.yaml`: levels 0-5, categories, and where the report card counts them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

RUBRIC_FILE = Path(__file__).parent / "data" / "rubric.yaml"


@dataclass(frozen=True)
class Level:
    """One level of the score: 0 (safe) to 5 (highly unsafe)."""

    level: int
    name: str
    criteria: str


@dataclass(frozen=True)
class Category:
    """What makes a text unsuitable; `none` if and only if the score is 0."""

    name: str
    description: str
    card: str | None  # the report card's category that it is counted under
    never_train: bool


def _read_rubric(path: Path) -> tuple[tuple[Level, ...], tuple[Category, ...], tuple[str, ...]]:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    levels = tuple(Level(**entry) for entry in raw["levels"])
    categories = tuple(
        Category(
            name,
            entry["description"],
            name if entry["card"] is True else entry["card"],
            entry.get("never_train", False),
        )
        for name, entry in raw["categories"].items()
    )
    card_categories = tuple(name for name, entry in raw["categories"].items() if entry["card"] is True)
    return levels, categories, card_categories


LEVELS, CATEGORIES, CARD_CATEGORIES = _read_rubric(RUBRIC_FILE)

NO_CATEGORY = "none"
CATEGORY_NAMES: tuple[str, ...] = tuple(category.name for category in CATEGORIES)
UNSAFE_CATEGORY_NAMES: tuple[str, ...] = tuple(name for name in CATEGORY_NAMES if name != NO_CATEGORY)
CARD_CATEGORY: dict[str, str | None] = {category.name: category.card for category in CATEGORIES}
NEVER_TRAIN_CATEGORIES: tuple[str, ...] = tuple(category.name for category in CATEGORIES if category.never_train)


def rubric_sha256() -> str:
    """sha256 (hexadecimal) of the rubric file: part of the identity of whatever was scored with it."""
    return hashlib.sha256(RUBRIC_FILE.read_bytes()).hexdigest()
