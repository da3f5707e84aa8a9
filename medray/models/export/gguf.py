"""Conversion of a merged model to one GGUF file by llama.cpp's converter, which must be on PATH and is not bundled.

| kind | program |
|---|---|
| f16, q8_0 | convert_hf_to_gguf.py |
| q4_k_m | the same to f16, then llama-quantize |
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from medray.errors import InputError, RunFailedError
from medray.plan.pretrained import from_pretrained

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf.py")
QUANTIZER = "llama-quantize"
KINDS = ("q8_0", "f16", "q4_k_m")


def check_package() -> None:
    """Raise InputError if the Python package gguf, which reads a written file back, is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            "the package gguf is not installed here",
            key="--format",
            value="gguf",
            fix="run pip install 'medray[quickstart]'",
        )


def commands(merged: Path, file: Path, kind: str) -> list[list[str]]:
    """Return the commands that make `file` from the model in `merged`.

    A program that is not on PATH is given by its name alone.
    """
    converter = next((found for name in CONVERTERS if (found := shutil.which(name))), CONVERTERS[0])
    if kind != "q4_k_m":
        return [[converter, str(merged), "--outtype", kind, "--outfile", str(file)]]
    between = file.with_name("model-f16.gguf")
    return [
        [converter, str(merged), "--outtype", "f16", "--outfile", str(between)],
        [shutil.which(QUANTIZER) or QUANTIZER, str(between), str(file), "Q4_K_M"],
    ]


def missing(kind: str) -> str | None:
    """Return the name of a program that is needed for `kind` but is not on PATH; None if all are there."""
    if not any(shutil.which(name) for name in CONVERTERS):
        return CONVERTERS[0]
    return QUANTIZER if kind == "q4_k_m" and not shutil.which(QUANTIZER) else None


def shown(steps: list[list[str]]) -> str:
    """Return commands as one line for a shell, to be shown to the user."""
    return " && ".join(shlex.join(step) for step in steps)


def convert(merged: Path, file: Path, kind: str) -> str:
    """Convert the model in `merged` to the GGUF file `file`, check the file, and return a line about the check.

    Raises RunFailedError if a program fails or weights are missing. The programs' output is discarded, because they
    may print a vocabulary.
    """
    steps = commands(merged, file, kind)
    for step in steps:
        done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise RunFailedError(
                f"{Path(step[0]).name} ended with code {done.returncode}. Fix: to see why, export with --format merged "
                "and run the program on that folder"
            )
    if len(steps) > 1:
        file.with_name("model-f16.gguf").unlink(missing_ok=True)
    return check(merged, file)


def check(merged: Path, file: Path) -> str:
    """Read a GGUF file back and check that it contains all weights of the merged model.

    Return a line about the result.

    Raises RunFailedError if it does not.
    """
    from gguf import GGUFReader

    from medray.models.adapters.merging import WeightFiles

    try:
        held = sum(int(tensor.n_elements) for tensor in GGUFReader(str(file)).tensors)
    except (OSError, ValueError, IndexError, KeyError):
        raise RunFailedError(
            "the GGUF file that was written cannot be read back. Fix: check the disk, and try a newer llama.cpp"
        ) from None
    wanted = WeightFiles(merged).elements()
    # A converter adds tables (scales of positions) and omits copies. A lost layer makes a much larger difference.
    if not 0.98 * wanted <= held <= 1.02 * wanted:
        raise RunFailedError(
            f"the GGUF file contains {held:,} values, but the merged model has {wanted:,}. Fix: use a llama.cpp that "
            "supports this model"
        )
    return f"the GGUF file contains {held:,} of the merged model's {wanted:,} values"


class NotLoadedError(Exception):
    """The error if transformers cannot read a GGUF file. Its text is the type of the original error."""


def load(file: Path, seq2seq: bool) -> Any:
    """Load the model in a GGUF file, with weights in float32. Raises NotLoadedError."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    try:
        model, found = from_pretrained(
            auto, file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # any type: transformers reads a file that a different program wrote
        raise NotLoadedError(type(error).__name__) from None
    if lacking := found["missing_keys"]:  # transformers initializes these at random
        raise NotLoadedError(f"{len(lacking)} tensors have no values")
    return model.eval()
