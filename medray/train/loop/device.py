"""The device of a worker and its memory, for the run's summary and the memory report of an export."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of a worker in bytes: what torch's allocator reserved on a GPU, or the process's resident memory on a CPU.

    device: the GPU's name, or "CPU". total_bytes: memory of the GPU, or of the machine. before_bytes: memory after the
    model and the optimizer were built. peak_bytes: largest value since the process started.
    """

    device: str
    total_bytes: int
    before_bytes: int
    peak_bytes: int


def this_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def used_bytes() -> int:
    """Return the memory in use now, in bytes, as `DeviceMemory` counts it."""
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_memory(before_bytes: int) -> DeviceMemory:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        peak = torch.cuda.max_memory_reserved()
        return DeviceMemory(properties.name, properties.total_memory, before_bytes, peak)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return DeviceMemory("CPU", total, before_bytes, peak)
