"""The memory figures of this process, which has no GPU in tests."""

from __future__ import annotations

import mmap

import psutil
import pytest
import torch

from medray.train.device import device_memory, used_bytes

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="figures of a process without a GPU")


def test_released_memory_counts_in_the_peak_but_not_as_used() -> None:
    before = used_bytes()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    pages = mmap.mmap(-1, 3 * before)
    pages.write(b"x" * 3 * before)
    assert used_bytes() > 3 * before
    pages.close()
    found = device_memory(before)
    assert (found.device, found.before_bytes) == ("CPU", before)
    assert found.total_bytes == psutil.virtual_memory().total
    assert used_bytes() < 3 * before < found.peak_bytes < found.total_bytes
