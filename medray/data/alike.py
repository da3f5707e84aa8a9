"""Rows of alike length beside each other, so that little is padded when neighbours are computed together."""

from __future__ import annotations

import numpy as np

# An encoder-decoder pads two arrays a row. In a run of rows with about the same total, order by the source puts targets
# in order too; a longer run would mix totals, a shorter one leave sources in disorder.
RUN_ROWS = 64


def by_length(totals: np.ndarray, sources: np.ndarray | None = None) -> np.ndarray:
    """Order of rows by their tokens, the longest first; int64 [rows].

    totals: of every row. sources: its part that an encoder reads, where there is one: runs of RUN_ROWS rows are then
    ordered by it. Equal rows keep their order.
    """
    order = np.argsort(-np.asarray(totals, np.int64), kind="stable")
    if sources is None:
        return order
    runs = np.arange(len(order)) // RUN_ROWS
    return order[np.lexsort((-np.asarray(sources, np.int64)[order], runs))]
