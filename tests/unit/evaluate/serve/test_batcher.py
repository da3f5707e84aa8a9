"""Waiting requests are answered in batches of those that fit together; a failure costs one request only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.progress import Row
from medray.evaluate.serve.batcher import MOST_FAILURES, Batcher, Job
from medray.evaluate.serve.refusal import RefusedError


def job(name: str, decoding: Decoding | None = None, limit: int = 5, task: str = "label") -> Job:
    return Job(
        ids=np.ones(3, np.int32), row=Row(limit=limit), decoding=decoding or Decoding(), name=name, task=task
    )


class Writer:
    """Answers with the names of the jobs. The first batch waits until `open` is set."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open, self.begun = threading.Event(), threading.Event()

    def __call__(self, jobs: Sequence[Job]) -> list[Answer]:
        self.batches.append([each.name for each in jobs])
        self.begun.set()
        assert self.open.wait(20)
        if any(each.name == "bad" for each in jobs):
            raise RuntimeError("bad")
        return [Answer(text=each.name, tokens=1, finish="stop") for each in jobs]


def queued(jobs: Sequence[Job], *, most: int = 3, waiting: int = 99) -> tuple[Writer, Batcher]:
    """Queue jobs behind one that is being answered."""
    writer = Writer()
    batcher = Batcher(writer, most=most, waiting=waiting)
    batcher.submit(job("first"))
    assert writer.begun.wait(20)
    for each in jobs:
        batcher.submit(each)
    return writer, batcher


def test_a_batch_has_what_fits_together_in_the_order_of_arrival() -> None:
    warm, beams = Decoding(temperature=1), Decoding(num_beams=2)
    jobs = [
        job("a"),
        job("warm", warm),
        job("b"),
        job("c"),
        job("d"),
        job("warm 2", replace(warm)),
        job("why", task="rationale"),
        job("beams", beams),
        job("beams of another length", beams, limit=6),
    ]
    writer, batcher = queued(jobs)
    writer.open.set()
    batcher.close()
    assert writer.batches == [
        ["first"],
        ["a", "b", "c"],
        ["warm", "warm 2"],
        ["d"],
        ["why"],
        ["beams"],
        ["beams of another length"],
    ]
    assert [each.answer.result().text for each in jobs] == [each.name for each in jobs]
    assert batcher.largest == 3
    with pytest.raises(RefusedError, match="ending"):
        batcher.submit(job("late"))


def test_a_bad_request_costs_its_neighbours_nothing() -> None:
    jobs = [job("a"), job("bad"), job("b")]
    writer, batcher = queued(jobs)
    writer.open.set()
    batcher.close()
    assert writer.batches[1:] == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert jobs[0].answer.result().text == "a"
    assert isinstance(jobs[1].answer.exception(), RuntimeError)
    assert jobs[2].answer.result().text == "b"


def test_a_model_that_fails_every_time_is_not_healthy() -> None:
    writer = Writer()
    writer.open.set()
    batcher = Batcher(writer, most=1, waiting=99)
    for name in ("bad",) * (MOST_FAILURES - 1) + ("good",) + ("bad",) * (MOST_FAILURES - 1):
        batcher.submit(one := job(name))
        assert (one.answer.exception(20) is None) == (name == "good")
        assert batcher.healthy
    batcher.submit(one := job("bad"))
    assert one.answer.exception(20) is not None
    assert not batcher.healthy
    batcher.close()


def test_what_nobody_waits_for_is_not_answered_and_too_many_are_refused() -> None:
    gone, left = job("gone"), job("left")
    writer, batcher = queued([gone, left, job("a")], waiting=3)
    with pytest.raises(RefusedError) as refused:
        batcher.submit(job("one too many"))
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "5")
    gone.cancel()
    assert left.answer.cancel()
    writer.open.set()
    batcher.close()
    assert writer.batches == [["first"], ["a"]]
