"""What SafeSteer finds before training, kept in the result folder: the direction and the safety tokens."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.files import sync_and_rename, temporary_name, write_json
from finetune.safesteer.refusal_formulas import CandidateScores
from finetune.safesteer.token_votes import SafetyToken

VECTOR_FILE: Final = "direction.safetensors"
FACTS_FILE: Final = "steering.json"


@dataclass(frozen=True)
class PreparedSteering:
    """`direction` [width], raw, for the input of block `chosen.layer`; `tokens`: S. `table`: all candidates. `kept`: prompts
    of each set that the filter left. `inputs_sha256`: of the prompts that all this came from."""

    direction: Tensor
    chosen: CandidateScores
    table: tuple[CandidateScores, ...]
    tokens: tuple[SafetyToken, ...]
    kept: dict[str, int]
    inputs_sha256: str

    @property
    def token_ids(self) -> tuple[int, ...]:
        """S, most votes first."""
        return tuple(token.id for token in self.tokens)

    def save(self, folder: Path, spellings: list[str]) -> None:
        """Writes direction.safetensors, then steering.json with everything else; `spellings`: of the tokens, for people."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(folder / VECTOR_FILE)
        save_file({"direction": self.direction.contiguous()}, str(temporary))
        sync_and_rename(temporary, folder / VECTOR_FILE)
        tokens = [{**asdict(token), "text": text} for token, text in zip(self.tokens, spellings, strict=True)]
        facts = {
            "inputs_sha256": self.inputs_sha256,
            "chosen": asdict(self.chosen),
            "kept": self.kept,
            "tokens": tokens,
            "table": [_finite(asdict(row)) for row in self.table],
        }
        write_json(folder / FACTS_FILE, facts)


def load_steering(folder: Path, inputs_sha256: str) -> PreparedSteering | None:
    """What `save` left in the folder, where it was made from the same inputs; else None."""
    if not (folder / FACTS_FILE).is_file():
        return None
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    if facts["inputs_sha256"] != inputs_sha256:
        return None
    tokens = tuple(
        SafetyToken(**{key: value for key, value in token.items() if key != "text"}) for token in facts["tokens"]
    )
    table = tuple(CandidateScores(**{key: _number(value) for key, value in row.items()}) for row in facts["table"])
    direction = load_file(str(folder / VECTOR_FILE))["direction"].to(torch.float32)
    return PreparedSteering(
        direction, CandidateScores(**facts["chosen"]), table, tokens, facts["kept"], inputs_sha256
    )  # fmt: skip


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {key: None if value != value else value for key, value in row.items()}


def _number(value: Any) -> Any:
    return float("nan") if value is None else value
