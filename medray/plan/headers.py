"""Parameters counted in weight files, of which only the headers are read.

A safetensors file opens with the length of its header (8 bytes, little-endian) and the header itself, a
JSON object of name → {dtype, shape, data_offsets} (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
BUFFERS = ("I64", "U64", "BOOL")  # position ids and masks: not parameters
EMBEDDINGS = (
    "embed_tokens.weight",
    "shared.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
)
HEADS = ("lm_head.weight", "embed_out.weight")
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # always T5's shared.weight again


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters.

    total: every parameter, a tied head counted once. embedding: the input embedding. head: the output head,
    0 when tied. largest_layer: the most parameters that one module owns itself, which ZeRO-3 gathers at
    once. stored_bytes: bytes of the weights as they lie on disk, None when counted from a config.
    """

    total: int
    embedding: int
    head: int
    largest_layer: int
    stored_bytes: int | None = None


def from_safetensors(folder: Path) -> ParameterCount:
    """Counts the weights in `folder`: those of its index, else of `model.safetensors`, else of all files.

    So a second copy in another layout (Mistral's `consolidated.safetensors`) is not counted. A head stored
    beside the embedding counts, for only a comparison of values could tell that the two are one.

    Raises FileNotFoundError when there is no file to count, and ValueError for a file that is no
    safetensors file, is cut short, or holds packed weights (4 or 8 bits, whose header does not tell the
    number of parameters).
    """
    sizes: dict[str, int] = {}
    stored = 0
    for file in _files(folder):
        for name, tensor in _header(file).items():
            if name == "__metadata__" or name.endswith("inv_freq") or tensor["dtype"] in BUFFERS:
                continue
            if tensor["dtype"] not in FLOATS:
                raise ValueError(
                    f"{file}: {name} is {tensor['dtype']}: packed weights, of which the header does not tell the number"
                )
            sizes[name] = math.prod(tensor["shape"])
            stored += sizes[name] * FLOATS[tensor["dtype"]]
    if not sizes:
        raise ValueError(f"{folder}: the safetensors files hold no weights")
    if any(name.endswith("shared.weight") for name in sizes):
        sizes = {name: size for name, size in sizes.items() if not name.endswith(COPIES)}
    modules: defaultdict[str, int] = defaultdict(int)
    for name, size in sizes.items():
        modules[name.rpartition(".")[0]] += size
    return ParameterCount(
        total=sum(sizes.values()),
        embedding=sum(size for name, size in sizes.items() if name.endswith(EMBEDDINGS)),
        head=sum(size for name, size in sizes.items() if name.endswith(HEADS)),
        largest_layer=max(modules.values()),
        stored_bytes=stored,
    )


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [
            folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        ]
        if missing := [file.name for file in files if not file.is_file()]:
            raise FileNotFoundError(
                f"{index} names {len(files)} files, {len(missing)} are not there: {missing[0]}"
            )
        return files
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *.safetensors file")
    return files


def _header(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(
                f"{file} ({size:,} bytes) is not a safetensors file; a pointer of Git LFS perhaps"
            )
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ValueError(f"{file} is not a safetensors file: its header is not JSON of tensors") from None
    end = 8 + length + max(ends, default=0)
    if end != size:
        raise ValueError(
            f"{file} has {size:,} bytes, its header tells of {end:,}: copied or loaded only in part"
        )
    return header
