"""Measure the state of `medray synth chat`: replies per second into it, seconds of a restart, and growth of memory.

    python benchmarks/synth_state.py --chats 100000

A function in this process answers each request at once, with replies of the published mean length, so that nothing but the
state machine is measured. Three turns per chat: five replies and one opening question. The restart is measured in a new
process, which reads the state and finds the next request.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from medray.backends.function import FunctionBackend
from medray.backends.protocol import Reply, Request
from medray.synth.asking.ask import ask, open_requests
from medray.synth.asking.store import Store
from medray.synth.chat.situations import draw
from medray.synth.chat.work import ChatWork, Situations
from medray.synth.lines import write_lines
from medray.synth.lists.read import read_lists
from medray.synth.prompts.questions import Question

TOKENS = {"c": 340, "u": 55}  # published means of a chatbot's turn and of a question
CHARACTERS_PER_TOKEN = 4


def main(argv: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--chats", type=int, default=100_000)
    options.add_argument("--restart", metavar="FOLDER", help=argparse.SUPPRESS)
    chosen = options.parse_args(argv)
    if chosen.restart:
        print(json.dumps(restart(Path(chosen.restart))))
        return
    with tempfile.TemporaryDirectory(prefix="medray-synth-") as made:
        print(json.dumps(measure(Path(made), chosen.chats), indent=2))


def measure(folder: Path, chats: int) -> dict[str, object]:
    lists = read_lists(None)
    rows = (
        Question(
            id=f"A-{n}-5A-Fiji",
            prompt=f"Question {n} of a nurse in a small clinic: which dose is right?\nAsk me questions before you answer.",
            part=3,
            context=(1, "Differential Diagnosis", 1, "Family Medicine"),
            speaker="Nurse",
            country="Fiji",
            style="5A",  # three turns
        )
        for n in range(chats)
    )
    write_lines(folder / "situations.jsonl", (plain(draw(row, lists, 0).to_json()) for row in rows))
    before = resident()
    texts = {kind: "x" * (tokens * CHARACTERS_PER_TOKEN) for kind, tokens in TOKENS.items()}

    def answer(batch: Sequence[Request]) -> list[str | Reply]:
        found: list[str | Reply] = []
        for request in batch:
            kind = request.key.rsplit("|", 2)[1][-1]
            tokens = TOKENS[kind]
            found.append(
                Reply(
                    key=request.key,
                    text=texts[kind],
                    finish_reason="stop",
                    model="responder",
                    prompt_tokens=tokens,
                    completion_tokens=tokens,
                    cost=0.0,
                )
            )
        return found

    store = Store(folder)
    work = ChatWork(Situations(folder / "situations.jsonl"), store, history="messages", max_tokens=1000)
    begun, cpu = time.perf_counter(), time.process_time()
    outcome = ask(work, store, FunctionBackend("responder", answer, batch_size=64), retries=0)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    store.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    again = json.loads(
        subprocess.run(
            [sys.executable, __file__, "--restart", str(folder)], check=True, capture_output=True, text=True
        ).stdout
    )
    return {
        "date": str(date.today()),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "chats": chats,
        "replies": outcome.accepted,
        "rejected": outcome.rejected.total(),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "replies_per_second": round((outcome.accepted + outcome.rejected.total()) / seconds),
        "state_megabytes": round(sum(each.stat().st_size for each in (folder / "state").iterdir()) / 1e6, 1),
        "memory_growth_megabytes": round((peak - before) / 1e6, 1),
        **again,
    }


def restart(folder: Path) -> dict[str, float]:
    """Return the seconds until the state is read and every open request is known."""
    begun, cpu = time.perf_counter(), time.process_time()
    store = Store(folder)
    state_seconds = time.perf_counter() - begun
    work = ChatWork(Situations(folder / "situations.jsonl"), store, history="messages", max_tokens=1000)
    left = sum(1 for _ in open_requests(work, store, retries=0))
    return {
        "open_after_restart": left,
        "restart_seconds": round(time.perf_counter() - begun, 2),
        "restart_state_seconds": round(state_seconds, 2),
        "restart_cpu_seconds": round(time.process_time() - cpu, 2),
    }


def plain(row: dict[str, object]) -> dict[str, object]:
    """Return a situation whose replies need no number of sentences, so that all replies are accepted."""
    return {**row, "n_sentences": [None, None], "language": None}


def resident() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
