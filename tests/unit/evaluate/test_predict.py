"""The order in which the evaluation of an export generates, which decides how much padding a batch has."""

from __future__ import annotations

from pathlib import Path

import tiny

from medray.evaluate.decoding import Decoding
from medray.evaluate.predict import PredictSpec, by_length, in_file_order


def test_rows_of_a_batch_have_prompts_of_similar_length(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(48), truth=True)
    store, rows = tokens.store(), 45
    lengths = [len(store.prompt(*place)) for place in tokens.rows()[:rows]]

    def positions(order: list[int], shares: int) -> int:
        """Return the number of computed prompt positions, with padding, for shares in batches of 4."""
        each = -(-rows // shares)
        parts = [order[at : at + each] for at in range(0, rows, each)]
        batches = [part[at : at + 4] for part in parts for at in range(0, len(part), 4)]
        return sum(len(batch) * max(lengths[number] for number in batch) for batch in batches)

    spec = PredictSpec("", tokens, rows, 4, Decoding(), 1, 1.0, 0.0, 1)
    file_order, own = list(range(rows)), sum(lengths)
    order = by_length(spec)
    assert sorted(order) == file_order
    assert positions(file_order, 1) > 1.3 * own
    assert positions(order, 1) < 1.06 * own
    shared = by_length(PredictSpec("", tokens, rows, 4, Decoding(), 3, 1.0, 0.0, 1))
    assert sorted(shared) == file_order
    assert positions(shared, 3) < 1.15 * own
    costs = [sum(lengths[number] for number in shared[at : at + 15]) for at in (0, 15, 30)]
    assert max(costs) < 1.1 * min(costs), "a worker has most of the work"


def test_predictions_are_returned_in_the_order_of_the_file() -> None:
    made = [{"number": n, "id": f"row-{n}", "prompt": "", "prediction": str(n)} for n in (2, 0, 1)]
    assert [(one.id, one.prediction) for one in in_file_order(made)] == [
        ("row-0", "0"),
        ("row-1", "1"),
        ("row-2", "2"),
    ]
