"""The batch plan: a function from an optimizer step to the rows of its batch, the same on every rank and machine.

The plan has three layers: the order of rows (`order`, or `mixing` if corpora have weights); the part that depends on
the lengths of rows, one window of shards at a time (`windows`); and the steps, in this file. A step is found without
computing other steps: from row counts alone or, if the number of steps depends on lengths, from the number of units
(packed sequences or batches) in the windows before it.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from math import ceil

import numpy as np

from medray.data.batching.mixing import Mixture
from medray.data.batching.order import RowOrder, Stream
from medray.data.batching.plan_spec import Batch, Corpus, PlanSpec, Sizes
from medray.data.batching.windows import ArrangedWindows
from medray.storage import StoragePath

__all__ = ["Batch", "BatchPlan", "Corpus", "PlanSpec", "Sizes"]


class BatchPlan:
    """The batches of all steps, one epoch after another without end.

    spec: the settings of the plan. sizes: function that returns the sequence lengths of a shard, called only if the
    plan depends on lengths, and only for shards of the current window and earlier ones. sources: the same for the
    inputs of an encoder, needed only for length buckets. folder: where computed windows are stored as files; None: in
    memory only. needs_sizes: whether the number of steps depends on lengths.

    Raises InputError if a corpus with a weight has no rows. If there are no rows at all, methods that take a step
    raise ValueError.
    """

    def __init__(
        self, spec: PlanSpec, sizes: Sizes, folder: StoragePath | None = None, sources: Sizes | None = None
    ) -> None:
        self.spec = spec
        self.needs_sizes = spec.pack_tokens is not None or spec.global_batch_tokens is not None
        self._mixture = Mixture(spec.corpora, spec.seed, spec.window_shards) if spec.weighted else None
        self._rows: RowOrder = self._mixture or Stream(
            [shard for corpus in spec.corpora for shard in corpus.shards],
            [rows for corpus in spec.corpora for rows in corpus.rows],
            spec.seed,
            spec.window_shards,
        )
        self._windows: ArrangedWindows | None = None
        if self.needs_sizes or spec.length_buckets:
            self._windows = ArrangedWindows(spec, self._rows, sizes, sources, folder)

    def steps(self, epochs: float) -> int:
        """Return the number of steps in `epochs`. For a fraction of an epoch, steps that begin in it are counted.

        The last batch of an epoch may be smaller. If `needs_sizes`, this waits until the lengths of all rows of the
        epoch are known.
        """
        if not epochs > 0:
            raise ValueError(f"{epochs:g} epochs contain no step; use a number above 0")
        # Decimal arithmetic: 0.1 epochs of 30 steps are 3, although 0.1 * 30 is above 3 in floating point.
        wanted = Fraction(repr(float(epochs)))
        if not self.needs_sizes:
            return ceil(wanted * self._steps_of(0))
        whole = int(wanted)
        part = wanted - whole
        return sum(map(self._steps_of, range(whole))) + (ceil(part * self._steps_of(whole)) if part else 0)

    def epoch(self, step: int) -> float:
        """Return how many epochs are done before the 0-based `step`: counted in steps, or in rows if `needs_sizes`."""
        if not self.needs_sizes:
            return step / self._steps_of(0)
        return self._taken(step) / self._rows.length

    def batch(self, step: int) -> Batch:
        """Return the rows of the 0-based optimizer step `step`."""
        epoch, number = self._locate(step)
        if self._windows is None:
            first, last = self._span(number)
            pairs = self._rows.take(epoch * self._rows.length + first, epoch * self._rows.length + last)
            return Batch(
                epoch=epoch, shards=pairs[:, 0], rows=pairs[:, 1], ends=np.arange(1, last - first + 1)
            )
        pairs, ends = self._arranged(self._windows, epoch, number)
        return Batch(epoch=epoch, shards=pairs[:, 0], rows=pairs[:, 1], ends=ends)

    def upcoming(self, step: int) -> tuple[int, ...]:
        """Return the shards of this step's window and of the next one, in the order in which they are needed, for
        read-ahead.
        """
        epoch, number = self._locate(step)
        starts = self._rows.starts(epoch)
        if self._windows is None:
            first, last = self._span(number)
            window = int(np.searchsorted(starts, last - 1, side="right")) - 1
        else:
            window = bisect_right(self._windows.unit_starts(epoch, number), number) - 1
            first = self._windows.bounds(epoch, window)[0]
        begin, length = epoch * self._rows.length, self._rows.length
        found = self._rows.shards(begin + first, begin + int(starts[min(window + 2, len(starts) - 1)]))
        if int(starts[window + 1]) == length:
            next_starts = self._rows.starts(epoch + 1)
            found += self._rows.shards(begin + length, begin + length + int(next_starts[1]))
        return tuple(dict.fromkeys(found))

    def shard_order(self) -> np.ndarray:
        """Return all shards in the order in which epoch 0 first needs them, int64. Shards are encoded in this order."""
        return self._rows.shard_order()

    def repeats(self, steps: int) -> dict[int, float]:
        """Return how often each corpus has been passed over after `steps` steps, by the number of the corpus."""
        taken = self._taken(steps)
        if self._mixture is not None:
            return dict(enumerate(self._mixture.passes(taken)))
        return dict.fromkeys(range(len(self.spec.corpora)), taken / self._rows.length)

    def _group(self) -> int:
        """Return the number of units per step, see `windows`."""
        return (self.spec.global_batch_size or 1) if self.needs_sizes else 1

    def _steps_of(self, epoch: int) -> int:
        if not self._rows.length:
            raise ValueError("the batch plan has 0 training rows, so it has no steps")
        if self._windows is not None and self.needs_sizes:
            return ceil(Fraction(self._windows.unit_starts(epoch, None)[-1], self._group()))
        return ceil(Fraction(self._rows.length, self.spec.global_batch_size or 1))

    def _locate(self, step: int) -> tuple[int, int]:
        """Return (epoch, first unit of the step in it). Without windows, a unit is a step."""
        if self._windows is None or not self.needs_sizes:
            return divmod(step, self._steps_of(0))
        if not self._rows.length:
            raise ValueError("the batch plan has 0 training rows, so it has no steps")
        epoch, group = 0, self._group()
        while True:
            unit = step * group
            starts = self._windows.unit_starts(epoch, unit)
            # The first window that is not counted yet begins with this unit, if it has any row.
            begins = starts[-1] == unit and self._rows.starts(epoch)[len(starts) - 1] < self._rows.length
            if starts[-1] > unit or begins:
                return epoch, unit
            step -= -(-starts[-1] // group)
            epoch += 1

    def _taken(self, step: int) -> int:
        """Return the number of rows in all steps before this one."""
        epoch, unit = self._locate(step)
        if self._windows is not None and self.needs_sizes:
            return epoch * self._rows.length + self._windows.rows_before(epoch, unit)
        return epoch * self._rows.length + self._span(unit)[0]

    def _span(self, number: int) -> tuple[int, int]:
        """Return the range of row positions in the epoch for batch `number`, if batches count rows."""
        size = self.spec.global_batch_size or 1
        return number * size, min((number + 1) * size, self._rows.length)

    def _arranged(self, windows: ArrangedWindows, epoch: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ((shard, row) pairs, sequence ends) of the step that begins with `unit`."""
        missing = self._group()
        starts = windows.unit_starts(epoch, unit)
        window = bisect_right(starts, unit) - 1
        unit -= starts[window]
        pairs, ends, held = [], [], 0
        while missing and window < len(self._rows.starts(epoch)) - 1:
            first, last = windows.bounds(epoch, window)
            if last > first:
                arrangement = windows.arrangement(epoch, window)
                until = min(unit + missing, arrangement.units)
                places, sequence_ends = arrangement.part(unit, until)
                pairs.append(windows.pairs(epoch, window)[places])
                ends.append(sequence_ends.astype(np.int64) + held)
                held += len(places)
                missing -= until - unit
                unit = 0
            window += 1
        return np.concatenate(pairs), np.concatenate(ends)
