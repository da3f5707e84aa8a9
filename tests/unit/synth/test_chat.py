"""Tests of the whole path to chats: replays, kills, rejections, files, budget and estimate."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchState, bad, batch_server, good
from chat_server import ChatState, Fault, chat_server
from s3_server import s3_server

from medray import storage
from medray.backends.function import FunctionBackend
from medray.backends.protocol import Reply, Request
from medray.cli.main import main
from medray.config.synth import SynthConfig
from medray.errors import InputError
from medray.storage import StoragePath
from medray.synth.asking.part_files import MOST_PARTS
from medray.synth.asking.steps import Key, parse_key
from medray.synth.asking.store import OK, REJECTED, Record, Store
from medray.synth.chat.run import Summary, Watch, chat

PLANES = "\\times \\" + "".join(chr(plane * 0x10000 + 0x1F4) for plane in range(17))
Answer = Callable[[Request], str | Reply]


def config(folder: Path, **more: Any) -> SynthConfig:
    tree: dict[str, Any] = {
        "run": {"storage": str(folder), "name": "s", "seed": 4},
        "prompts": {"parts": [2, 3], "sample": 6, "near_duplicates": None},
        "backend": {"type": "local", "model": "test"},
    }
    return SynthConfig.model_validate(tree | more)


def text_of(request: Request) -> str:
    key = parse_key(request.key)
    assert key is not None
    if key.step == "q":
        return "\n###\n".join(
            f"Question {n} of {key.id} {PLANES}?" for n in range(4 if key.id[0] == "3" else 1)
        )
    return f"**{key.step}** of {key.id}: {PLANES}"


def right_length(request: Request) -> str:
    """Return a reply of the number of sentences that the system prompt asks for."""
    system = request.messages[0].content
    if " has exactly " not in system:
        return text_of(request)
    return "Yes. " * int(system.split(" has exactly ")[1].split()[0])


def run(made: SynthConfig, answer: Answer, **more: Any) -> Summary:
    backend = FunctionBackend("test", lambda batch: [answer(each) for each in batch])
    return chat(made, local=lambda section, where: backend, **more)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_questions_become_chats_whose_texts_are_unchanged(tmp_path: Path) -> None:
    sent: list[Request] = []

    def answer(request: Request) -> str:
        sent.append(request)
        return right_length(request)

    summary = run(config(tmp_path), answer)
    rows = [
        json.loads(line) for line in (tmp_path / "s" / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert summary.status == "done"
    assert summary.finished == summary.chats == len(rows) == 6 + 6 * 4 * 2
    for row in rows:
        roles = [turn["role"] for turn in row["conversation"]]
        assert roles == ["user", "chatbot"] * (len(roles) // 2)
        assert PLANES in row["conversation"][0]["value"]
    assert len({request.key for request in sent}) == len(sent)
    assert run(config(tmp_path), answer).accepted == 0
    assert sum(len(row["conversation"]) - 1 for row in rows) + 12 == len(sent)


def test_a_shuffled_and_repeated_file_of_replies_changes_no_byte(tmp_path: Path) -> None:
    """If a key has two replies, the order of the lines does not decide which one is used."""
    recorded: list[dict[str, Any]] = []

    def answer(request: Request) -> str:
        text = text_of(request)
        recorded.append({"key": request.key, "text": text, "finish_reason": "stop"})
        recorded.append({"key": request.key, "text": f"{text} Another one.", "finish_reason": "stop"})
        recorded.append(
            {"custom_id": request.key, "response": {"status_code": 500, "body": {}}, "error": None}
        )
        return text

    run(config(tmp_path / "live"), answer)
    found = []
    for seed in (1, 2, 3):
        rows = recorded * 2 if seed < 3 else [row for row in recorded if "Another" not in str(row)] * 2
        random.Random(seed).shuffle(rows)
        file = tmp_path / f"replies-{seed}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        replay = {"type": "replay", "file": str(file)}
        chat(config(tmp_path / str(seed), backend=replay))
        before = files_of(tmp_path / str(seed))
        again = chat(config(tmp_path / str(seed), backend=replay), replies=[file])
        assert again.accepted == 0
        assert {**files_of(tmp_path / str(seed)), "s/synth.json": b""} == {**before, "s/synth.json": b""}
        found.append(before["s/chats.jsonl"])
    assert found[0] == found[1]
    assert found[2] == (tmp_path / "live" / "s" / "chats.jsonl").read_bytes()


def test_kills_at_any_moment_cost_nothing(tmp_path: Path) -> None:
    calm: list[str] = []

    def count(request: Request) -> str:
        calm.append(request.key)
        return text_of(request)

    run(config(tmp_path / "calm"), count)
    sent: list[str] = []
    left = [0]

    def dying(request: Request) -> str:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        sent.append(request.key)
        return text_of(request)

    draws = random.Random(3)
    for kill in range(10):
        left[0] = draws.randrange(1, len(calm) // 8)
        with pytest.raises(KeyboardInterrupt):
            run(config(tmp_path / "killed"), dying)
        if kill == 5:  # a line that the kill cut off
            parts = sorted((tmp_path / "killed" / "s" / "state").iterdir())
            parts[-1].write_bytes(parts[-1].read_bytes()[:-9])
            sent.pop()
    left[0] = 10**6
    run(config(tmp_path / "killed"), dying)
    assert sorted(sent) == sorted(calm)
    name = "s/chats.jsonl"
    assert files_of(tmp_path / "killed")[name] == files_of(tmp_path / "calm")[name]


def test_rejected_replies_are_asked_for_again_and_then_dropped_with_a_reason(tmp_path: Path) -> None:
    def answer(request: Request) -> str | Reply:
        key = parse_key(request.key)
        assert key is not None
        if key.step == "1c" and key.attempt == 0:
            return Reply(key=request.key, text="cut", finish_reason="length", model="m")
        return "(user) hello" if key.id.startswith("A-") and key.step == "1c" else right_length(request)

    summary = run(config(tmp_path), answer)
    chats = summary.chats
    assert summary.rejected["finish_reason length"] == chats
    assert summary.dropped == {"role tag": 12}  # six questions A, two styles each
    assert summary.rejected["role tag"] == 24
    assert summary.finished == chats - 12
    ids = [json.loads(line)["id"] for line in (tmp_path / "s" / "chats.jsonl").read_text().splitlines()]
    assert not any(name.startswith("A-") for name in ids)


def test_requests_are_written_to_files_and_answers_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "synth.yaml"
    file.write_text("prompts: {sample: 3, parts: [2]}\nfiles: {model: m, most_requests: 2}\n")
    folder, finished = tmp_path / "runs" / "synth", 0
    replies = tmp_path / "replies.jsonl"
    for _ in range(9):
        given = ["--replies", str(replies)] if replies.exists() else []
        assert main(["synth", "chat", str(file), "--json", *given]) == 0
        found = json.loads(capsys.readouterr().out)
        finished = found["finished"]
        if found["status"] == "done":
            break
        lines = [line for each in found["files"] for line in Path(each).read_text().splitlines()]
        assert all(Path(each).read_text().count("\n") <= 2 for each in found["files"])
        assert json.loads(lines[0])["body"]["model"] == "m"
        answers = [
            {
                "custom_id": json.loads(line)["custom_id"],
                "response": {
                    "status_code": 200,
                    "body": {"choices": [{"message": {"content": f"Reply to {n}"}, "finish_reason": "stop"}]},
                },
            }
            for n, line in enumerate(lines)
        ]
        replies.write_text("".join(json.dumps(row) + "\n" for row in answers))
    assert found["finished"] + sum(found["dropped"].values()) == 3
    assert finished
    assert not (folder / "to_answer").exists()


def test_the_estimate_is_near_the_bill_and_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    questions = tmp_path / "questions.json"
    questions.write_text(
        json.dumps([{"id": f"1-{n}", "prompt": "What is the dose?", "context": "a, b"} for n in range(300)])
    )
    price = {"prompt_per_million": 1e4, "completion_per_million": 1e5}

    def answer(request: Request) -> Reply:
        """A server whose tokens have four characters, and whose replies are as long as the published ones."""
        key = parse_key(request.key)
        assert key is not None
        length = 340 if key.step.endswith("c") else 55
        prompt = sum(len(each.content) // 4 + 4 for each in request.messages)
        text = right_length(request).strip().ljust(4 * length - 8, "x")
        cost = (prompt * 1e4 + length * 1e5) / 1e6
        return Reply(
            key=request.key,
            text=text,
            finish_reason="stop",
            model="m",
            cost=cost,
            prompt_tokens=prompt,
            completion_tokens=length,
        )

    made = config(
        tmp_path,
        inputs={"questions": [str(questions)]},
        backend={"type": "local", "model": "m"},
        chat={"retries": 0},
        files={"price": price},
    )
    backend = made.backend.model_copy(update={"price": made.files.price}) if made.backend else None
    made = made.model_copy(update={"backend": backend})
    before = run(made, answer, only_estimate=True)
    assert (before.accepted, before.status) == (0, "estimate")
    after = run(made, answer)
    complete = after.cost * after.chats / max(after.finished, 1)
    assert after.finished > 0.9 * after.chats
    assert before.estimates[0].cost == pytest.approx(complete, rel=0.1)
    with chat_server(ChatState(reply=lambda body: "Give five milligrams")) as url:
        live = {
            "type": "endpoint", "base_url": url, "model": "m", "limits": {"concurrency": 2}, "price": price,
        }  # fmt: skip
        said: list[str] = []
        limited = config(
            tmp_path / "live", inputs={"questions": [str(questions)]}, backend=live, budget=800.0
        )
        stopped = chat(limited, watch=Watch(say=said.append))
    assert stopped.status == "budget"
    assert 0 < stopped.cost <= 800.0
    assert "budget" in said[-1]


def test_replies_that_were_lost_count_in_the_budget_of_the_next_start(tmp_path: Path) -> None:
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([{"id": "1-0", "prompt": "What is the dose?", "context": "a, b"}]))
    state = ChatState(reply=lambda body: "Give five milligrams", faults=[Fault(cut="before")] * 2)
    with chat_server(state) as url:
        live = {
            "type": "endpoint", "base_url": url, "model": "m", "limits": {"retries": 0},
            "price": {"prompt_per_million": 0, "completion_per_million": 1e3},
        }  # fmt: skip
        made = config(tmp_path / "live", inputs={"questions": [str(questions)]}, backend=live, budget=2.5)
        costs = [chat(made).uncertain_cost for _ in range(2)]
        stopped = chat(made)
    assert costs == pytest.approx([1.0, 2.0])  # 1,000 tokens for each
    assert (stopped.status, len(state.bodies)) == ("budget", 2)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoragePath]:
    if request.param == "folder":
        yield tmp_path
        return
    with s3_server(tmp_path, "bucket"):
        yield storage.at("s3://bucket/synth")


def test_the_state_survives_many_starts_and_their_compaction(place: StoragePath) -> None:
    for start in range(MOST_PARTS + 2):
        store = Store(place)
        store.add(Record(key=Key(f"id {start}", "1c", 0), status=REJECTED, reason="empty", text="no"))
        store.add(Record(key=Key(f"id {start}", "1c", 1), status=OK, text=f"text {start}", cost=0.5))
        assert not store.add(Record(key=Key(f"id {start}", "1c", 0), status=OK, text="late"))
        store.close()
    store = Store(place)
    store.compact_if_many()
    assert list(storage.sizes(place / "state")) == ["upto-000017.jsonl"]
    store.add(Record(key=Key("id 0", "2u", 0), status=OK, text="new"))
    store.sync()
    store.add(Record(key=Key("id 1", "2u", 0), status=OK, text="newer"))
    store.close()
    again = Store(place)
    assert [again.text(f"id {n}", "1c") for n in range(18)] == [f"text {n}" for n in range(18)]
    assert (again.text("id 0", "2u"), again.text("id 1", "2u")) == ("new", "newer")
    assert (again.attempts("id 0", "1c"), again.cost) == (2, 9.0)
    assert again.counts["1c", REJECTED, "empty"] == 18
    assert [row["text"] for row in again.rows()][:2] == ["no", "text 0"]
    again.close()


def test_other_keys_are_refused_in_a_folder_with_chats(tmp_path: Path) -> None:
    run(config(tmp_path), right_length)
    with pytest.raises(InputError, match="drawn with another seed, other questions or other keys"):
        run(config(tmp_path, chat={"most": 3}), right_length)


def test_most_chats_are_drawn_from_the_questions(tmp_path: Path) -> None:
    summary = run(config(tmp_path, chat={"most": 5}), right_length)
    assert (summary.questions, summary.chats) == (54, 5)


def test_batches_are_submitted_looked_at_and_fetched_turn_by_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server shuffles and repeats its lines, and one request of ten fails once."""
    monkeypatch.setenv("TEST_KEY", "k")
    failed: set[str] = set()

    def answer(line: dict[str, Any]) -> dict[str, Any]:
        prompt = json.dumps(line["body"]["messages"])
        if prompt not in failed and len(failed) < 3:
            failed.add(prompt)
            return bad(line, 500)
        return good(line)

    with batch_server(BatchState(answer=answer)) as url:
        file = tmp_path / "synth.yaml"
        file.write_text(
            "prompts: {sample: 5, parts: [2], near_duplicates: null}\n"
            f"backend: {{type: batch, base_url: {url}, model: m, key_env: TEST_KEY, poll_seconds: 0.01}}\n"
        )

        def verb(name: str, *more: str) -> dict[str, Any]:
            assert main(["synth", name, str(file), "--json", *more]) == 0
            found: dict[str, Any] = json.loads(capsys.readouterr().out)
            return found

        assert verb("submit")["submitted"] == 5
        assert verb("submit")["submitted"] == 0  # on their way already
        assert verb("submit", "chat.temperature=0.5")["submitted"] == 0
        assert [batch["requests"] for batch in verb("status")["batches"]] == [5]
        for _ in range(20):
            found = verb("fetch")
            if found["status"] == "done":
                break
            verb("submit")
        assert found["chats"] == 5
        assert found["finished"] + sum(found["dropped"].values()) == 5
        assert len(failed) == 3
        waited = verb("run", "run.name=waited")
        assert waited["chat"]["finished"] == found["finished"]
        assert waited["clean"]["chats"] == found["finished"]
    chats = (tmp_path / "runs" / "synth" / "chats.jsonl").read_bytes()
    assert (tmp_path / "runs" / "waited" / "chats.jsonl").read_bytes() == chats
    assert main(["synth", "submit", str(file), "backend=null"]) == 2
    assert "set backend.type: batch" in capsys.readouterr().err
    assert main(["synth", "run", str(file), "backend=null"]) == 2


def test_request_files_end_before_the_budget_and_an_estimate_writes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "synth.yaml"
    price = "{prompt_per_million: 0, completion_per_million: 1000000}"  # one for each token of a reply
    file.write_text(f"prompts: {{sample: 10, parts: [1]}}\nfiles: {{price: {price}}}\nbudget: 500\n")
    assert main(["synth", "chat", str(file), "--json", "--estimate"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["estimated_cost"] == 10 * 55
    )  # the published mean of a question
    assert not (tmp_path / "runs" / "synth" / "to_answer").exists()
    assert main(["synth", "chat", str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "budget"
    assert [Path(each).read_text().count("\n") for each in found["files"]] == [3]  # of at most 150 tokens
    assert main(["synth", "chat", str(file), "--replies", str(tmp_path / "none.jsonl")]) == 2
    assert "--replies" in capsys.readouterr().err
