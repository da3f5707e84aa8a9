"""The memory figures of this process, which has no GPU in tests."""

from __future__ import annotations

import mmap

import psutil
import pytest
import torch

from medray.train.loop.device import device_memory, used_bytes

SPARE_BYTES = 200_000_000
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="figures of a process without a GPU")


def test_released_memory_counts_in_the_peak_but_not_as_used() -> None:
    before = used_bytes()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    peak = device_memory(before).peak_bytes  # which earlier tests of this process may have made
    size = peak - before + SPARE_BYTES
    pages = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        pages[at] = 1
    assert used_bytes() > before + size - SPARE_BYTES // 2
    pages.close()
    found = device_memory(before)
    assert (found.device, found.before_bytes) == ("CPU", before)
    assert found.total_bytes == psutil.virtual_memory().total
    assert used_bytes() < before + SPARE_BYTES // 2
    assert peak + SPARE_BYTES // 2 < found.peak_bytes < found.total_bytes
