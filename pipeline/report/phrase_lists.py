"""The phrases an auditor counts: 14 categories, one YAML file each, checked when they are read."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from classifiers.errors import DataError

CATEGORY_TITLES = {
    "violent_crimes": "Violent crimes",
    "non_violent_crimes": "Non-violent crimes",
    "sex_crimes": "Sex-related crimes",
    "child_exploitation": "Child exploitation",
    "defamation": "Defamation",
    "specialized_advice": "Specialised advice",
    "privacy": "Privacy",
    "intellectual_property": "Intellectual property",
    "weapons": "Indiscriminate weapons",
    "hate": "Hate",
    "self_harm": "Suicide and self-harm",
    "sexual_content": "Sexual content",
    "elections": "Elections",
    "code_abuse": "Code abuse",
}
"""The card's categories (MLCommons taxonomy, arXiv 2404.12241, and JailbreakBench), in the order they are shown."""

PHRASES_FOLDER = Path(__file__).parent / "phrases"
MAX_WORDS = 3


def read_phrase_file(path: Path) -> tuple[str, tuple[str, ...]]:
    """(category, phrases) of one list file: a mapping with `category` (the file's name), `about` and `phrases`.

    Raises DataError on a missing key, an empty list, a phrase that is repeated or not of 1-3 words.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot read the phrase list: {error}") from error
    if not isinstance(data, dict) or data.get("category") != path.stem or not isinstance(data.get("phrases"), list):
        raise DataError(f"{path}: expected `category: {path.stem}` and a list `phrases`")
    phrases = tuple(data["phrases"])
    for phrase in phrases:
        if not isinstance(phrase, str) or not 1 <= len(phrase.split()) <= MAX_WORDS:
            raise DataError(f"{path}: {phrase!r} is not a phrase of 1 to {MAX_WORDS} words; quote or shorten it")
    if not phrases or len(set(phrases)) != len(phrases):
        raise DataError(f"{path}: the list is empty or holds a phrase twice")
    return path.stem, phrases


@cache
def load_phrase_lists(folder: Path = PHRASES_FOLDER) -> Mapping[str, tuple[str, ...]]:
    """Category -> phrases, for the 14 categories in the card's order.

    Raises DataError where a category's file is missing or wrong, or a phrase stands in two categories (its hits
    would count twice in the total).
    """
    lists = {}
    owner: dict[str, str] = {}
    for category in CATEGORY_TITLES:
        path = folder / f"{category}.yaml"
        _, phrases = read_phrase_file(path)
        for phrase in phrases:
            if phrase in owner:
                raise DataError(f"{path}: {phrase!r} stands in {owner[phrase]}.yaml too; keep it in one category")
            owner[phrase] = category
        lists[category] = phrases
    return lists


def phrase_lists_sha256(lists: Mapping[str, tuple[str, ...]]) -> str:
    """Fingerprint of the lists: counts made with other phrases must not be added or compared unseen."""
    content = {category: sorted(phrases) for category, phrases in lists.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
