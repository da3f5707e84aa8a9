"""The header of an untrusted safetensors file: nothing in it is used before it is checked.

A file begins with the length of its header (8 bytes, little-endian) and the header, a JSON object of name →
{dtype, shape, data_offsets} (https://huggingface.co/docs/safetensors, "Format"). The checks are those of the library, and
the tests compare both. `safetensors.safe_open(framework="np")` does not replace this code (tried with safetensors 0.8):

- It opens a named pipe and waits forever, holding Python's global lock, so no thread can end the wait.
- Its errors quote the file ("unknown variant `…`", "invalid offset for tensor `…`"). Such text may have any length and contain
  control characters.
- It maps the file into memory: if a file on a network disk becomes shorter, a signal kills the process.
- A malicious header of 65 MB needed 240 MB of memory, and 117 MB with this code.

The library reads a header of 300 tensors in 1 ms, but so few headers are read that this does not matter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
BITS = {
    name: bits
    for bits, names in (
        (64, "F64 I64 U64 C64"),
        (32, "F32 I32 U32"),
        (16, "F16 BF16 I16 U16"),
        (8, "I8 U8 BOOL F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ"),
        (6, "F6_E2M3 F6_E3M2"),
        (4, "F4"),
    )
    for name in names.split()
}


@dataclass(frozen=True)
class Tensor:
    """A tensor as described in the header of a safetensors file. elements: the product of its shape."""

    dtype: str
    elements: int
    shape: tuple[int, ...] = ()


class HeaderError(ValueError):
    """The error for a damaged or foreign file. Its message continues a sentence that begins with the name of the file."""


def read_header(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, from its checked header.

    This needs no more memory than the file's real size allows, whatever length or shape the header claims. Raises
    HeaderError if this is not a complete safetensors file, OSError as `open` does.
    """
    size, text = file.stat().st_size, None
    if size >= 8:  # a pipe has no size, and opening it would block
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= min(size - 8, LONGEST_HEADER) else None
    if text is None:
        raise HeaderError(
            f"({size:,} bytes) is not a safetensors file; perhaps it is a Git LFS pointer or an incomplete copy"
        )
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise HeaderError("is not a safetensors file: its header is not JSON of tensors")
    header.pop("__metadata__", None)
    places = [_place(tensor, size) for tensor in header.values()]
    end = 0
    for number, (begin, after, _) in enumerate(sorted(places, key=lambda place: place[:2]), 1):
        if begin != end:
            raise HeaderError(
                f"is not a safetensors file: tensor {number} of {len(places)} begins at byte {begin:,}, but the one before "
                f"ends at {end:,}"
            )
        end = after
    if 8 + length + end != size:
        raise HeaderError(
            f"has only {size:,} of {8 + length + end:,} bytes: its copy or download is incomplete"
        )
    return {name: tensor for name, (_, _, tensor) in zip(header, places, strict=True)}


def index_files(index: Path) -> list[str]:
    """Return the sorted file names in a *.safetensors.index.json. Raises HeaderError if it is not such an index."""
    if index.stat().st_size > LONGEST_HEADER:
        raise HeaderError("is not an index of weights: it is too large")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        names = set()
    if not names or not all(isinstance(name, str) for name in names):
        raise HeaderError("is not an index of weights")
    if any("/" in name or not name.isprintable() or not name.endswith(".safetensors") for name in names):
        raise HeaderError(
            "is not an index of weights: it names files that are not *.safetensors in the same folder"
        )
    return sorted(names)


def _place(tensor: Any, size: int) -> tuple[int, int, Tensor]:
    """Return (first byte, byte after the last, tensor) for an entry. Its shape must fill exactly these bytes."""
    try:
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        bits = BITS[dtype]
        numbers = [begin, end, *shape]
    except (LookupError, TypeError, ValueError):
        raise HeaderError(
            "is not a safetensors file: its header lacks dtype, shape or offsets of a tensor"
        ) from None
    if not isinstance(shape, list) or any(type(each) is not int or each < 0 for each in numbers):
        raise HeaderError("is not a safetensors file: a shape or offset in its header is not a whole number")
    elements = 0 if 0 in shape else 1
    for dimension in shape:
        elements *= dimension
        if elements > 8 * size:  # more than one element per bit: stop multiplying
            break
    if elements * bits != 8 * (end - begin):
        raise HeaderError(
            "contains a tensor that does not fit its offsets: it is not a safetensors file, or an incomplete copy"
        )
    return begin, end, Tensor(dtype, elements, tuple(shape))
