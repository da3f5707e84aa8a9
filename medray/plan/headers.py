"""The number of parameters in weight files, from their headers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config.checks.safetensors_header import Tensor

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
BUFFERS = ("I64", "U64", "BOOL")  # position ids and masks, which are not parameters
EMBEDDINGS = (
    "embed_tokens.weight",
    "shared.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
)
HEADS = ("lm_head.weight", "embed_out.weight")
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # always copies of T5's shared.weight


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCount:
    """Numbers of parameters.

    total: all parameters, with a tied head counted once. embedding: the input embedding. head: the output head, 0 if it is
    tied. largest_layer: the largest number of parameters in one module itself, which ZeRO-3 gathers at once.
    stored_bytes: bytes of the weights on disk, or None if counted from a config.
    """

    total: int
    embedding: int
    head: int
    largest_layer: int
    stored_bytes: int | None = None


def from_safetensors(folder: Path) -> ParameterCount:
    """Count the weights in `folder`: those in its index, else in `model.safetensors`, else in all files.

    So a second copy in another format (Mistral's `consolidated.safetensors`) is not counted. A head that is stored in
    addition to the embedding is counted: only comparing the values could show that the two are equal.

    Raises InputError if there is no file to count, or if one is not a complete safetensors file, and ValueError for packed
    weights (4 or 8 bits, whose header does not give the number of parameters).
    """
    # Imported here, because the rest of planning needs none of the imports of config.
    from medray.config.checks.safetensors_header import BITS

    sizes: dict[str, int] = {}
    stored = 0
    for file in _files(folder):
        for name, tensor in _header(file).items():
            if name.endswith("inv_freq") or tensor.dtype in BUFFERS:
                continue
            if tensor.dtype not in FLOATS:
                raise ValueError(
                    f"{file}: {name} is {tensor.dtype}: packed weights, whose header does not give the number of parameters"
                )
            sizes[name] = tensor.elements
            stored += sizes[name] * BITS[tensor.dtype] // 8
    if not sizes:
        raise ValueError(f"{folder}: the safetensors files contain no weights")
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
    from medray.config.checks.safetensors_header import HeaderError, index_files

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = [folder / name for name in index_files(index)]
        except HeaderError as error:
            raise _broken(index, str(error)) from None
        if missing := [file.name for file in files if not file.is_file()]:
            raise _broken(
                index, f"lists {len(files)} files, of which {len(missing)} are missing, such as {missing[0]}"
            )
        return files
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise _broken(folder, "has no *.safetensors file")
    return files


def _header(file: Path) -> dict[str, Tensor]:
    from medray.config.checks.safetensors_header import HeaderError, read_header

    try:
        return read_header(file)
    except HeaderError as error:
        raise _broken(file, str(error)) from None
    except OSError as error:
        raise _broken(file, f"cannot be read ({error.strerror})") from None


def _broken(file: Path, what: str) -> InputError:
    return InputError(what, file=file, fix="copy or download the model again")
