"""When the driver ends at once: a stop that no worker would see."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from medray.errors import InputError, StoppedError
from medray.train import stop
from medray.train.driver import observer
from medray.train.loop import read_ahead


def test_a_stop_is_left_to_workers_that_step_and_else_ends_the_run() -> None:
    switch = stop.StopSwitch()
    running = observer.RunObserver(None, switch)
    running.beat()
    switch.request(signal.SIGTERM)
    with pytest.raises(StoppedError, match="the same command again"):
        running.beat()
    for record, left_to_workers in (
        ({"kind": "phase", "name": "training"}, True),
        ({"kind": "phase", "name": "evaluation"}, True),
        ({"kind": "failure", "text": "worker 1: ended"}, False),
        ({"kind": "phase", "name": "model"}, False),
        ({"kind": "phase", "name": "training"}, True),
        ({"kind": "phase", "name": "export"}, False),
    ):
        running.hear(record)
        assert running.stepping is left_to_workers, record


def test_a_stop_is_heard_while_the_workers_wait_for_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker looks at the stop until its step has come: the driver ends the run, after a while in which it may come."""
    switch, clock = stop.StopSwitch(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    running = observer.RunObserver(None, switch)
    running.hear({"kind": "phase", "name": "training"})
    running.hear({"kind": "waiting", "text": "the token shard 7"})
    switch.request(15)
    running.beat()
    clock[0] += observer.STOP_SECONDS + 1
    running.hear({"kind": "message", "text": "a checkpoint cannot be written"})
    with pytest.raises(StoppedError, match="while the workers waited for the token shard 7"):
        running.beat()
    running.hear({"kind": "step", "step": 8})
    running.beat()  # it is theirs again


def test_who_waits_for_a_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "WAITING_SECONDS", 0.01)
    told = threading.Event()

    def prepare(step: int) -> int:
        assert told.wait(10)
        return step

    with read_ahead.ReadAhead(prepare, range(2), waiting=told.set) as ahead:
        assert [ready.prepared for ready in ahead] == [0, 1]


def test_a_stop_file_is_heard_and_one_of_an_earlier_start_goes(tmp_path: Path) -> None:
    switch = stop.StopSwitch()
    with stop.watching(tmp_path, switch, seconds=0.01):
        assert (switch.reason, switch.on_request) == (None, False)
        stop.ask(tmp_path)
        heard = threading.Event()
        while not switch.on_request:
            assert not heard.wait(0.01)
    assert (switch.reason, switch.exit_code) == ("request", 76)
    switch.request(signal.SIGTERM)
    assert switch.exit_code == 76, "whoever asked does not want the run to be started again"

    stop.ask(tmp_path, now=1000.0)
    assert stop.begin(tmp_path, launched_at=999.0) == 1000.0, "it came while the run was in a queue"
    assert (tmp_path / stop.FILE).exists(), "a requeued job sees it again"
    assert stop.begin(tmp_path, launched_at=1001.0) is None
    assert not (tmp_path / stop.FILE).exists()


def test_a_start_by_hand_takes_any_request_away_also_one_of_a_clock_that_is_ahead(tmp_path: Path) -> None:
    stop.ask(tmp_path, now=time.time() + 10_000)
    assert (asked := stop.asked_at(tmp_path)) is not None
    assert asked <= time.time()
    assert stop.begin(tmp_path, launched_at=None) is None
    assert not (tmp_path / stop.FILE).exists()


def test_a_file_made_by_touch_counts_from_when_it_was_written(tmp_path: Path) -> None:
    (tmp_path / stop.FILE).touch()
    os.utime(tmp_path / stop.FILE, (500, 500))
    assert stop.asked_at(tmp_path) == 500
    assert stop.begin(tmp_path, launched_at=400) == 500


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"time": "x"}', b"#!/bin/sh", b"x" * 10_000, None])
def test_what_is_no_request_stops_nothing_and_is_not_written_over(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / stop.FILE
    file.mkdir() if content is None else file.write_bytes(content)
    assert stop.asked_at(tmp_path) is None
    assert stop.begin(tmp_path, launched_at=0) is None
    with pytest.raises(InputError, match="is not a request to stop"):
        stop.ask(tmp_path)
    assert file.is_dir() if content is None else file.read_bytes() == content


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_exit_codes_of_signals(number: int, code: int) -> None:
    switch = stop.StopSwitch()
    switch.request(number)
    assert switch.exit_code == code


def test_a_request_in_one_folder_is_not_withdrawn_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of several stages and the stage that trains are watched for one switch."""
    switch, looked = stop.StopSwitch(), threading.Event()

    def none_here(folder: Path) -> None:
        switch.on_request = True  # the watcher of the other folder, meanwhile
        looked.set()

    monkeypatch.setattr(stop, "asked_at", none_here)
    with stop.watching(tmp_path, switch, seconds=0.01):
        assert looked.wait(30)
        for thread in [each for each in threading.enumerate() if each.name == "stop-file"]:
            thread.join(30)
    assert switch.on_request
