from __future__ import annotations

import itertools

import pytest

from medray.errors import InputError
from medray.plan.steps import BatchSplit, split_batch, total_steps


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "steps"),
    [
        (2000, 8, 1, 250),
        (9, 4, 1, 3),
        (9, 4, 2, 6),
        (9, 4, 0.5, 2),
        (240, 8, 0.1, 3),
        (1, 8, 1, 1),
        (8, 8, 0.01, 1),
    ],
)
def test_steps_of_epochs(rows: int, batch: int, epochs: float, steps: int) -> None:
    assert total_steps(rows, batch, epochs) == steps


def test_max_steps_wins_and_needs_no_count_of_rows() -> None:
    assert total_steps(2000, 8, 3, max_steps=7) == 7
    assert total_steps(2000, 8, 1, max_steps=9999) == 9999
    assert total_steps(None, 8, 1, max_steps=7) == 7


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((0, 8, 1, None), "0 training rows"),
        ((0, 8, 1, 5), "0 training rows"),
        ((8, 0, 1, None), "global batch of 0 rows"),
        ((8, 8, 0, None), "0 epochs train nothing"),
        ((8, 8, 1, 0), "0 steps train nothing"),
        ((None, 8, 1, None), "not known yet"),
    ],
)
def test_a_run_of_no_steps_is_refused(args: tuple[int, int, float, int | None], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        total_steps(*args)


@pytest.mark.parametrize(
    ("batch", "workers", "given", "split"),
    [
        (8, 1, {}, (8, 1, 8)),
        (8, 2, {}, (4, 1, 8)),
        (8, 3, {}, (3, 1, 9)),
        (64, 2, {}, (8, 4, 64)),
        (36, 2, {}, (6, 3, 36)),
        (26, 2, {}, (1, 13, 26)),
        (1, 4, {}, (1, 1, 4)),
        (8, 2, {"micro_batch_size": 2, "gradient_accumulation_steps": 2}, (2, 2, 8)),
        (8, 3, {"micro_batch_size": 2}, (2, 2, 12)),
        (9, 1, {"micro_batch_size": 8}, (8, 2, 16)),
        (8, 3, {"gradient_accumulation_steps": 2}, (2, 2, 12)),
        (8, 2, {"gradient_accumulation_steps": 4}, (1, 4, 8)),
        (16, 1, {"micro_batch_size": 16}, (16, 1, 16)),
    ],
)
def test_splits(batch: int, workers: int, given: dict[str, int], split: tuple[int, int, int]) -> None:
    assert split_batch(batch, workers, **given) == BatchSplit(*split)


def test_by_default_padding_is_as_small_as_the_workers_allow() -> None:
    for batch, workers in itertools.product(range(1, 60), range(1, 9)):
        split = split_batch(batch, workers)
        assert split.slots == workers * split.micro_batch_size * split.gradient_accumulation_steps
        assert batch <= split.slots < batch + workers
        assert split.micro_batch_size <= 8
        larger = range(split.micro_batch_size + 1, 9)
        assert all(split.slots % (workers * size) for size in larger)


@pytest.mark.parametrize(
    ("batch", "workers", "given", "complaint"),
    [
        (
            8,
            2,
            (2, 1),
            "2 workers x micro_batch_size 2 x gradient_accumulation_steps 1 hold 4 rows, less than .* 8 needs\n  Fix: "
            "remove both, or set train.micro_batch_size: 4 or train.gradient_accumulation_steps: 2",
        ),
        (8, 2, (2, 3), "hold 12 rows, more than (?s:.*) or set train.gradient_accumulation_steps: 2"),
        (8, 2, (8, None), "hold 16 rows, more than (?s:.*)remove both, or set train.micro_batch_size: 4"),
        (8, 2, (3, 2), "hold 12 rows, more than (?s:.*) set train.micro_batch_size: 2$"),
        (8, 3, (None, 4), "hold 12 rows, more than (?s:.*) set train.gradient_accumulation_steps: 3"),
        (8, 2, (0, None), "train.micro_batch_size: 0"),
        (8, 2, (None, 0), "train.gradient_accumulation_steps: 0"),
        (0, 2, (None, None), "global batch of 0 rows on 2 workers"),
    ],
)
def test_contradictions_name_their_numbers(
    batch: int, workers: int, given: tuple[int | None, int | None], complaint: str
) -> None:
    with pytest.raises((InputError, ValueError), match=complaint):
        split_batch(batch, workers, *given)


def test_every_fix_that_is_named_works() -> None:
    for batch, workers, micro, accumulation in itertools.product(
        range(1, 25), (1, 2, 3), range(1, 10), range(1, 10)
    ):
        try:
            split_batch(batch, workers, micro, accumulation)
        except InputError as error:
            for way in filter(None, str(error.fix).partition("or set ")[2].split(" or ")):
                key, _, value = way.removeprefix("train.").partition(": ")
                given = {"micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
                assert split_batch(batch, workers, **(given | {key: int(value)})).slots >= batch
