"""Weight files: the same bytes in every process, facts that come back, and a message for broken ones."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from classifiers.adapter import SHIPPED_ADAPTER, adapted_sha256, read_adapter
from classifiers.embedding import SHIPPED_HEAD, read_head_facts
from classifiers.encoder import embedded_encoder_folder
from classifiers.errors import ModelError
from classifiers.weights_file import facts_of, save_weights

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"thresholds": (0.5, 0.25), "encoder": "mine", "adapter": "a", "encoder_sha256": "abc", "more": [1]}
WRITE = f"""
import sys
from pathlib import Path
import numpy as np
from classifiers.weights_file import save_weights
save_weights({{"b": np.ones(2, np.float32), "a": np.zeros(3, np.float16)}}, Path(sys.argv[1]), {FACTS!r})
"""


def test_the_bytes_do_not_depend_on_the_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    contents = set()
    for number in range(6):  # a hash map of five entries would come out in six equal orders once in 120**5
        file = tmp_path / f"{number}.safetensors"
        subprocess.run([sys.executable, "-c", WRITE, str(file)], check=True, env=environment)
        contents.add(file.read_bytes())
    assert len(contents) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_facts_come_back(tmp_path):
    file = tmp_path / "folder" / "weights.safetensors"
    save_weights({"a": np.zeros(3)}, file, FACTS)
    with safe_open(str(file), framework="numpy") as opened:
        assert facts_of(opened, file) == {**FACTS, "thresholds": [0.5, 0.25]}


@pytest.mark.parametrize("stored", ["{", "3"])
def test_broken_facts_are_named(tmp_path, stored):
    file = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros(3)}, str(file), metadata={"facts": stored})
    with pytest.raises(ModelError, match=r"weights\.safetensors: its facts are not a JSON object"):
        read_adapter(file, "abc")
    save_file({"a": np.zeros(3)}, str(file))
    with pytest.raises(ModelError, match="made for the encoder None, not for the one loaded"):
        read_adapter(file, "abc")


def test_shipped_head_belongs_to_the_shipped_adapter():
    encoder = hashlib.sha256((embedded_encoder_folder() / "model.safetensors").read_bytes()).hexdigest()
    facts = read_head_facts(SHIPPED_HEAD)
    assert facts.adapter == SHIPPED_ADAPTER
    assert facts.encoder_sha256 == adapted_sha256(encoder, SHIPPED_ADAPTER)
