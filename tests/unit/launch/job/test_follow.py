"""Following a job whose server misbehaves: a log that is cut, errors, silence. tests/ray has the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faulty_job_server import ID, State, faulty_job_server

from medray.cli.main import main
from medray.errors import InputError, RunFailedError
from medray.launch.job.follow import Follower
from medray.launch.job.server import Address, JobServer

LOG = "".join(f"step {number}\n" for number in range(20))


@pytest.fixture(autouse=True)
def without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(
        "RAY_AUTH_TOKEN", "0" * 64
    )  # where an earlier test of this process has let Ray ask for one


class Followed:
    def __init__(self, state: State, url: str, patience: float = 30.0) -> None:
        self.text, self.said = "", []
        self.follower = Follower(
            JobServer(Address(url)),
            ID,
            show=self._show,
            say=self.said.append,
            poll_seconds=0.02,
            patience_seconds=patience,
            rest_seconds=0.2,
        )

    def _show(self, text: str) -> None:
        self.text += text

    said: list[str]


@pytest.fixture
def state() -> State:
    return State(log=LOG)


@pytest.fixture
def url(state: State) -> Iterator[str]:
    with faulty_job_server(state) as address:
        yield address


def test_the_end_of_the_log_s_stream_is_not_the_end_of_the_job(state: State, url: str) -> None:
    """Each stream begins with the first character again, and every character is shown once."""
    state.ends_after = [10, 40, 40, 90]

    def ended_after_the_fourth() -> None:
        if state.streams >= 4:
            state.answers = ["FAILED"]

    state.answers, state.exit_code, state.on_ask = ["RUNNING"], 76, ended_after_the_fourth
    followed = Followed(state, url)
    job = followed.follower.until_ended()
    assert (job.status, job.exit_code) == ("FAILED", 76)
    assert followed.text == LOG
    assert state.streams >= 4


def test_a_stream_that_hangs_does_not_hide_the_end(state: State, url: str) -> None:
    state.answers = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    followed = Followed(state, url)
    assert followed.follower.until_ended().status == "SUCCEEDED"
    assert followed.text == LOG


def test_a_server_that_is_away_for_a_while_is_waited_for(state: State, url: str) -> None:
    state.answers = ["RUNNING", None, 500, 503, "RUNNING", "SUCCEEDED"]
    followed = Followed(state, url)
    assert followed.follower.until_ended().status == "SUCCEEDED"
    assert [text.partition(" at ")[0] for text in followed.said] == [
        "no job server answers",
        "the job server answers again",
    ]


def test_the_wait_for_a_server_is_limited(state: State, url: str) -> None:
    state.answers = ["RUNNING", None]
    with pytest.raises(RunFailedError, match=r"may still be running\. Fix: use --attach"):
        Followed(state, url, patience=0.1).follower.until_ended()


def test_a_job_that_the_head_has_forgotten_is_lost(state: State, url: str) -> None:
    state.answers = ["RUNNING", 404]
    with pytest.raises(RunFailedError, match="no longer knows the job"):
        Followed(state, url).follower.until_ended()


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(
    state: State, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Follower) -> None:
        raise KeyboardInterrupt

    state.answers = ["RUNNING"]
    monkeypatch.setattr(Follower, "until_ended", interrupt)
    assert main(["launch", "job", "--attach", "a", "--address", url]) == 130
    shown = capsys.readouterr().err
    assert f"--attach a --address {url}" in shown
    assert f"--stop a --address {url}" in shown


@pytest.mark.parametrize(
    ("status", "code", "message", "says", "wanted"),
    [
        ("SUCCEEDED", 0, "", "SUCCEEDED, exit code 0: done", 0),
        ("FAILED", 2, "", "exit code 2: the config or the data is wrong", 2),
        ("FAILED", 130, "", "exit code 130: the run was interrupted and saved", 130),
        ("FAILED", -9, "", "exit code 1: the job's driver was killed by SIGKILL", 1),
        (
            "FAILED",
            None,
            "Failed to set up runtime environment\x1b[2J",
            "Failed to set up runtime environment?[2J",
            1,
        ),
        ("STOPPED", None, "", "exit code 75: the job was stopped", 75),
    ],
)
def test_attaching_to_an_ended_job_gives_its_log_and_its_code(
    state: State,
    url: str,
    status: str,
    code: int | None,
    message: str,
    says: str,
    wanted: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state.answers, state.exit_code, state.message = [status], code, message
    assert main(["launch", "job", "--attach", "a", "--address", url]) == wanted
    shown = capsys.readouterr().err
    assert LOG in shown
    assert says in shown


def test_only_our_jobs_are_listed(
    state: State, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is not. The address is Ray's variable here."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
    assert main(["launch", "job", "--list"]) == 0
    heading, job = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["STARTED", "STATUS", "CODE"]
    assert ID in job


def test_a_proxy_is_not_asked_for_this_machine_and_named_where_it_is(
    state: State, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert JobServer(Address(url)).job(ID).status == "SUCCEEDED"
    with pytest.raises(InputError, match=r"went through a proxy; NO_PROXY=head\.invalid"):
        JobServer(Address("http://head.invalid:8265"))


def test_a_server_that_is_not_a_job_server_is_wrong_input(state: State, url: str) -> None:
    state.page = "<html>a proxy</html>"
    with pytest.raises(InputError, match="not a job server of Ray") as caught:
        JobServer(Address(url))
    assert caught.value.value == url
