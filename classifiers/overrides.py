"""`--set KEY=VALUE` of every command but pretraining's, whose room stands alone: values put into a recipe before it is read."""

from collections.abc import Sequence
from typing import Any

import yaml

from classifiers.errors import RecipeError


def put_overrides(
    values: dict[str, Any], overrides: Sequence[str], example: str, error: type[RecipeError] = RecipeError
) -> None:
    """Put `key=value` texts into a recipe's values; the value is YAML, a dotted key reaches inside, a number picks an entry of a
    list: `data.0.rows=100`. A section that is missing or empty is made.

    `example`: of such a text, for the message. Raises `error`, which names the text that is wrong.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise error(f"--set {override}: write it as key=value, for example --set {example}")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: of a date that does not exist
            raise error(
                f"--set {override}: the value is not YAML; put it in quotes, for example --set '{key}=\"*.jsonl\"'"
            ) from None
        _put(values, key.split("."), value, override, error)


def _put(values: dict[str, Any], parts: list[str], value: Any, override: str, error: type[RecipeError]) -> None:
    place: Any = values
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise error(f"--set {override}: {part} is no entry of the list, which has {len(place)}")
            key: Any = int(part)
        elif isinstance(place, dict):
            key = part
            if not last and place.get(part) is None:
                place[part] = {}
        else:
            raise error(f"--set {override}: {'.'.join(parts[:number])} holds a single value")
        if last:
            place[key] = value
        else:
            place = place[key]
