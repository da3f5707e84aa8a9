"""GPUs by name: memory, dense matrix rate and link, as their data sheets have them; and the text `4x8xH100-80GB`.

Rates are dense (without structured sparsity), in 16 bits with sums in float32. A link is the sum of both directions per GPU,
NVLink or Infinity Fabric where the card has it, else PCIe. Memory is what the driver reports, which is less than the name
says: some is reserved (error correction, firmware).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from medray.errors import InputError

MIB = 1 << 20
TERA, GIGA = 10**12, 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of GPU.

    memory: bytes. rate: floating-point operations per second of a matrix product in 16 bits. link: bytes per second. bf16:
    whether it computes in bfloat16; without it, a run must use fp16 or fp32.
    """

    name: str
    memory: int
    rate: float
    link: float
    bf16: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpus:
    """Machines with the same number of GPUs of one kind each."""

    gpu: Gpu
    nodes: int
    per_node: int

    @property
    def count(self) -> int:
        return self.nodes * self.per_node

    @property
    def described(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.nodes}x{self.per_node}x{self.gpu.name}"


def _gpu(name: str, mebibytes: int, tera: float, giga: float, *, bf16: bool = True) -> Gpu:
    return Gpu(name=name, memory=mebibytes * MIB, rate=tera * TERA, link=giga * GIGA, bf16=bf16)


GPUS = (
    _gpu("T4", 15_360, 65, 32, bf16=False),
    _gpu("V100-16GB", 16_160, 125, 300, bf16=False),
    _gpu("V100-32GB", 32_510, 125, 300, bf16=False),
    _gpu("A10", 23_028, 125, 64),
    _gpu("L4", 23_034, 121, 64),
    _gpu("L40S", 46_068, 362, 64),
    _gpu("A100-40GB", 40_536, 312, 600),
    _gpu("A100-80GB", 81_251, 312, 600),
    _gpu("H100-80GB", 81_559, 989, 900),
    _gpu("H200", 143_771, 989, 900),
    _gpu("B200", 182_642, 2_250, 1_800),
    _gpu("MI300X", 196_592, 1_307, 896),
)
# Name without a size, and names that Ray and the drivers use → the kind that is meant.
_OTHER_NAMES = {
    "V100": "V100-16GB",
    "A100": "A100-80GB",
    "A100-40": "A100-40GB",
    "A100-80": "A100-80GB",
    "A100-40G": "A100-40GB",
    "A100-80G": "A100-80GB",
    "H100": "H100-80GB",
    "A10G": "A10",
    "H200-141GB": "H200",
    "B200-192GB": "B200",
    "MI300X-192GB": "MI300X",
    "T4-16GB": "T4",
    "L4-24GB": "L4",
    "A10-24GB": "A10",
    "L40S-48GB": "L40S",
}
_MOST = 100_000


def gpu(name: str) -> Gpu | None:
    """Return the kind of GPU that a name means; None if it is not known. `NVIDIA A100-SXM4-80GB` is known too."""
    known = {one.name: one for one in GPUS} | {
        other: next(one for one in GPUS if one.name == meant) for other, meant in _OTHER_NAMES.items()
    }
    wanted = name.strip().upper()
    if wanted in known:
        return known[wanted]
    words = [
        word
        for word in re.split(r"[\s_-]+", wanted)
        if word not in ("NVIDIA", "TESLA", "AMD", "INSTINCT", "HBM3")
        and not re.match(r"SXM|PCIE|TENSOR|CORE", word)
    ]
    return known.get("-".join(words))


def parse(text: str) -> Gpus:
    """Return the GPUs of `8xH100-80GB` or `4x8xH100-80GB` (nodes x GPUs of a node x name). Raises InputError."""
    found = re.fullmatch(r"(?:(\d+)x)?(?:(\d+)x)?([A-Za-z][\w -]*)", text.strip())
    kind = gpu(found[3]) if found else None
    if found is None or kind is None:
        raise InputError(
            "is not a number of GPUs with a name from the table",
            key="--gpus",
            value=text,
            fix=f"use NODESxGPUSxNAME such as 4x8xH100-80GB, with one of {', '.join(one.name for one in GPUS)}",
        )
    counts = [int(each) for each in found.groups()[:2] if each is not None]
    if any(not 1 <= count <= _MOST for count in counts):
        raise InputError(
            f"numbers of nodes and GPUs must be between 1 and {_MOST:,}",
            key="--gpus",
            value=text,
            fix="use a number such as 8xH100-80GB",
        )
    nodes, per_node = (counts[0], counts[1]) if len(counts) == 2 else (1, counts[0] if counts else 1)
    return Gpus(gpu=kind, nodes=nodes, per_node=per_node)


def smallest(size: int, *, bf16: bool) -> Gpu | None:
    """Return the GPU of the table with the least memory that holds `size` bytes; None if none does.

    bf16: whether it must compute in bfloat16.
    """
    fitting = (one for one in GPUS if one.memory >= size and (one.bf16 or not bf16))
    return min(fitting, key=lambda one: one.memory, default=None)


def with_count(gpus: Gpus, count: int) -> Gpus:
    """Return as many GPUs of this kind, on as few nodes as hold them."""
    per_node = min(count, gpus.per_node)
    return replace(gpus, nodes=-(-count // per_node), per_node=per_node)
