"""A merged model as one GGUF file, by llama.cpp's own converter, which is found on PATH and never bundled.

| kind | who makes it |
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
    """Raises InputError without the package that reads the file back."""
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            "the package gguf is not installed here",
            key="--format",
            value="gguf",
            fix="pip install 'medray[quickstart]'",
        )


def commands(merged: Path, file: Path, kind: str) -> list[list[str]]:
    """What makes `file` of the model in `merged`, one after another; names stand where a program was not found."""
    converter = next((found for name in CONVERTERS if (found := shutil.which(name))), CONVERTERS[0])
    if kind != "q4_k_m":
        return [[converter, str(merged), "--outtype", kind, "--outfile", str(file)]]
    between = file.with_name("model-f16.gguf")
    return [
        [converter, str(merged), "--outtype", "f16", "--outfile", str(between)],
        [shutil.which(QUANTIZER) or QUANTIZER, str(between), str(file), "Q4_K_M"],
    ]


def missing(kind: str) -> str | None:
    """The program that is not on PATH; None where all are."""
    if not any(shutil.which(name) for name in CONVERTERS):
        return CONVERTERS[0]
    return QUANTIZER if kind == "q4_k_m" and not shutil.which(QUANTIZER) else None


def shown(steps: list[list[str]]) -> str:
    """The commands as one line for a shell."""
    return " && ".join(shlex.join(step) for step in steps)


def convert(merged: Path, file: Path, kind: str) -> str:
    """Writes `file` and returns a line on what was checked. Raises RunFailedError where a program fails or the file is short.

    What the programs print is dropped: they may print a vocabulary.
    """
    steps = commands(merged, file, kind)
    for step in steps:
        done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise RunFailedError(
                f"{Path(step[0]).name} ended with code {done.returncode}; to see why, export --format merged and run "
                f"it by hand on that folder"
            )
    if len(steps) > 1:
        file.with_name("model-f16.gguf").unlink(missing_ok=True)
    return check(merged, file)


def check(merged: Path, file: Path) -> str:
    """Read the file back: it must hold every weight of the merged model."""
    from gguf import GGUFReader

    from medray.models.adapters.merging import WeightFiles

    try:
        held = sum(int(tensor.n_elements) for tensor in GGUFReader(str(file)).tensors)
    except (OSError, ValueError, IndexError, KeyError):
        raise RunFailedError("the GGUF file that was written cannot be read") from None
    wanted = WeightFiles(merged).elements()
    # A converter adds tables (scales of positions) and leaves out copies; a lost layer is far more.
    if not 0.98 * wanted <= held <= 1.02 * wanted:
        raise RunFailedError(f"the GGUF file holds {held:,} values, the merged model {wanted:,}")
    return f"the GGUF file holds {held:,} values of the merged model's {wanted:,}"


class NotLoadedError(Exception):
    """transformers cannot read the architecture or the tensors of a GGUF file. The text is the kind of the reason."""


def load(file: Path, seq2seq: bool) -> Any:
    """The model of a GGUF file, its weights as float32. Raises NotLoadedError."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    try:
        model, found = from_pretrained(
            auto, file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # of any kind: its reader meets a file that another program wrote
        raise NotLoadedError(type(error).__name__) from None
    if lacking := found["missing_keys"]:  # which transformers fills with random values
        raise NotLoadedError(f"it finds no values for {len(lacking)} tensors")
    return model.eval()
