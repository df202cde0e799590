"""The file that a calibrated cascade is loaded from: what it promises, from which data, for which weights, at what cost."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from classifiers.cascade_rules import BOUNDARIES, Thresholds
from classifiers.errors import DataError, IdentityError
from classifiers.gate_statistics import Promise

CALIBRATE = "calibrate again with `safetrove classifier calibrate`"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Cost(_Strict):
    """Shares of the calibration data that reach the encoder: of documents, of chunks, of tokens (which is the time)."""

    documents: float
    chunks: float
    tokens: float


class CurvePoint(_Strict):
    """Cost against recall: one level's threshold is moved, the others stay."""

    level: int
    threshold: float
    recall: float
    lower_bound: float
    cost: Cost


class Calibration(_Strict):
    """Gates and their proof. `classifiers`: identities of the weights; `data_sha256`: of the texts, in order."""

    date: str
    data_sha256: str
    documents: int
    chunks: int
    confidence: float
    classifiers: dict[str, Any]
    thresholds: Thresholds
    promises: list[Promise]
    never_train_documents: int  # of the data; every one of them passes
    cost: Cost
    curve: list[CurvePoint]

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(path.name + ".tmp")
        whole.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        whole.replace(path)


def load_calibration(path: Path, classifiers: dict[str, Any]) -> Calibration:
    """The calibration in `path`, if it was made for these `classifiers`.

    Raises DataError where the file is missing, broken, has unknown keys or promises less than it states, IdentityError
    where it was made for other weights.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such calibration; {CALIBRATE}")
    try:
        found = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
        date.fromisoformat(found.date)
        _check(found)
    except (ValidationError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: not a calibration ({error}); restore it or {CALIBRATE}") from error
    if found.classifiers != classifiers:
        names = sorted(
            name for name in found.classifiers.keys() | classifiers.keys()
            if found.classifiers.get(name) != classifiers.get(name)
        )  # fmt: skip
        raise IdentityError(
            f"{path}: the gates were calibrated for other weights of {', '.join(names)} than the ones loaded, so their "
            f"recall is unknown; {CALIBRATE}"
        )
    return found


def _check(calibration: Calibration) -> None:
    levels = [promise.level for promise in calibration.promises]
    if levels != list(BOUNDARIES):
        raise ValueError(f"promises for levels {levels}, expected {list(BOUNDARIES)}")
    used = (calibration.thresholds.at_1, calibration.thresholds.at_3)
    if used != tuple(promise.threshold for promise in calibration.promises):
        raise ValueError("the thresholds are not those of the promises")
    for promise in calibration.promises:
        if promise.lower_bound < promise.target:
            raise ValueError(f"the lower bound at score >= {promise.level} is under its target")
