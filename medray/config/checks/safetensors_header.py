"""The header of a safetensors file, which may come from anywhere: nothing in it is believed before it is checked.

A file opens with the length of its header (8 bytes, little-endian) and the header itself, a JSON object of name to
{dtype, shape, data_offsets} (https://huggingface.co/docs/safetensors, "Format"). The checks are those of the library, and
the tests compare both. `safetensors.safe_open(framework="np")` does not replace this code (tried with safetensors 0.8):

- It opens a named pipe and waits for ever, while it holds Python's lock, so no thread can end the wait.
- Its errors quote the file ("unknown variant `…`", "invalid offset for tensor `…`"). Such text may be of any length and hold
  control characters.
- It maps the file into memory: a file on a network disk that becomes shorter ends the process by a signal.
- A hostile header of 65 MB took 240 MB of memory, and 117 MB here.

It reads a header of 300 tensors in 1 ms, but so few headers are read that the time does not count.
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
    """What a header says of one tensor. elements: the product of its shape."""

    dtype: str
    elements: int
    shape: tuple[int, ...] = ()


class HeaderError(ValueError):
    """Why a file is not whole, as a sentence that the file's name begins."""


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of `file` by name. Raises HeaderError for a file that is none or not whole, OSError as `open` does.

    Takes no more memory than a header of the file's own size needs, whatever length or shape the file claims.
    """
    size, text = file.stat().st_size, None
    if size >= 8:  # a pipe has none, and to open it would wait
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= min(size - 8, LONGEST_HEADER) else None
    if text is None:
        raise HeaderError(
            f"({size:,} bytes) is not a safetensors file: a pointer of Git LFS, or copied in part"
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
                f"is not a safetensors file: of its {len(places)} tensors number {number} begins at byte {begin:,}, "
                f"the one before ends at {end:,}"
            )
        end = after
    if 8 + length + end != size:
        raise HeaderError(f"has {size:,} of {8 + length + end:,} bytes: copied or loaded only in part")
    return {name: tensor for name, (_, _, tensor) in zip(header, places, strict=True)}


def index_files(index: Path) -> list[str]:
    """The names of the files that an index of weights tells of, sorted. Raises HeaderError where it is none."""
    if index.stat().st_size > LONGEST_HEADER:
        raise HeaderError("is not an index of weights: it is too large")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        names = set()
    if not names or not all(isinstance(name, str) for name in names):
        raise HeaderError("is not an index of weights")
    if any("/" in name or not name.isprintable() or not name.endswith(".safetensors") for name in names):
        raise HeaderError("is not an index of weights: it names other files than *.safetensors beside it")
    return sorted(names)


def _place(tensor: Any, size: int) -> tuple[int, int, Tensor]:
    """(first byte, byte after the last, tensor) of an entry whose shape fills exactly these bytes."""
    try:
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        bits = BITS[dtype]
        numbers = [begin, end, *shape]
    except (LookupError, TypeError, ValueError):
        raise HeaderError(
            "is not a safetensors file: its header lacks dtype, shape or place of a tensor"
        ) from None
    if not isinstance(shape, list) or any(type(each) is not int or each < 0 for each in numbers):
        raise HeaderError("is not a safetensors file: a shape or place in its header is no whole number")
    elements = 0 if 0 in shape else 1
    for dimension in shape:
        elements *= dimension
        if elements > 8 * size:  # more than one a bit: no need to multiply on
            break
    if elements * bits != 8 * (end - begin):
        raise HeaderError(
            "has a tensor that does not fill its place: not a safetensors file, or copied in part"
        )
    return begin, end, Tensor(dtype, elements, tuple(shape))
