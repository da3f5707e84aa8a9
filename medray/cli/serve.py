"""The verb `medray serve`: answer HTTP requests with a model, on Ray Serve."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.cli.asked_model import add_model, named_model
from medray.errors import InputError, StoppedError
from medray.train.stop import StopSwitch

if TYPE_CHECKING:
    from medray.cli.asked_model import NamedModel
    from medray.evaluate.serve.deployment import Serving

STOPPING = "no new requests; finishing the answers that are being written"
POLL_SECONDS = 0.2
HOST, PORT, BATCH, ANSWER_TOKENS, BODY_KB, WAITING = "127.0.0.1", 8000, 8, 1024, 1024, 128


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "serve",
        help="answer HTTP requests with a run or a model, also those of OpenAI's clients",
        description="Load a model and answer HTTP requests: /predict, /v1/chat/completions (OpenAI's API), /v1/models and /health. "
        "Ctrl-C or TERM finishes what is being answered. Nothing of a request is stored.",
    )
    add_model(verb)
    verb.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values of dotted keys, such as eval.generation.num_beams=4",
    )
    verb.add_argument(
        "--host", default=HOST, help=f"address to listen at; others than loopback need a token ({HOST})"
    )
    verb.add_argument("--port", type=int, default=PORT, help=f"port to listen at ({PORT})")
    verb.add_argument("--name", help="name of the model in requests; default: the name of the run or folder")
    verb.add_argument(
        "--replicas",
        type=int,
        default=1,
        help="processes that each load the model; each has its own GPU if there are any (1)",
    )
    verb.add_argument(
        "--cpus",
        type=int,
        metavar="N",
        help="CPU cores of each replica; default: those of this machine, or 1 on a cluster that RAY_ADDRESS names",
    )
    verb.add_argument(
        "--max-batch",
        type=int,
        default=BATCH,
        help=f"largest number of requests that are answered at once ({BATCH})",
    )
    verb.add_argument(
        "--max-waiting",
        type=int,
        default=WAITING,
        help=f"number of requests that may wait; more are refused with status 429 ({WAITING})",
    )
    verb.add_argument(
        "--max-new-tokens",
        type=int,
        default=ANSWER_TOKENS,
        metavar="N",
        help=f"longest answer that a request may ask for, in tokens ({ANSWER_TOKENS})",
    )
    verb.add_argument(
        "--max-body-kb", type=int, default=BODY_KB, help=f"largest body of a request, in KiB ({BODY_KB})"
    )
    verb.add_argument(
        "--token-env",
        metavar="NAME",
        help="environment variable with the token that requests must send; default: MEDRAY_SERVE_TOKEN, if it is set",
    )
    verb.add_argument(
        "--token-file", type=Path, metavar="FILE", help="private file with the token, instead of a variable"
    )
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.cli.train import stoppable

    _check(arguments)
    stop = StopSwitch()
    with stoppable(stop, STOPPING):
        return _run(arguments, stop)


def _run(arguments: argparse.Namespace, stop: StopSwitch) -> int:
    from medray.cli.cluster import before_import, connect, disconnect
    from medray.cli.train import on_signals

    named = named_model(arguments.model, arguments.config, arguments.overrides)
    serving = serving_of(arguments, named)
    _say(f"loading {arguments.model}")
    # A run's own cluster.address is where it was trained, so only the environment names a cluster here.
    address = os.environ.get("RAY_ADDRESS")
    address = None if address in (None, "", "local") else address
    before_import(address)
    from medray.evaluate.asking import Prompter
    from medray.evaluate.serve.deployment import check_free, served, share_of_replica

    Prompter(serving.asked)  # a tokenizer or a template that cannot be used is refused before Ray starts
    if address is None:
        check_free(serving.host, serving.port)
    _refuse_stopped(stop)
    try:
        connect(address)
        on_signals(stop, STOPPING)  # again, because Ray has replaced the handler of SIGTERM
        _refuse_stopped(stop)
        wanted = arguments.cpus or (1 if address else max((os.cpu_count() or 1) // serving.replicas, 1))
        cpus, gpus = share_of_replica(serving.replicas, wanted)
        with served(replace(serving, cpus=cpus, gpus=gpus, private=address is None)):
            host = f"[{serving.host}]" if ":" in serving.host else serving.host
            _say(
                f"{serving.name} answers at http://{host}:{serving.port} ({_access(serving)}). Ctrl-C ends it"
            )
            while not stop.reason:
                time.sleep(POLL_SECONDS)
        _say("ended; no answer is pending")
    finally:
        disconnect()
    return stop.exit_code


def serving_of(arguments: argparse.Namespace, named: NamedModel) -> Serving:
    """Return what is served, and where. Raises InputError for a model or a name that cannot be served."""
    from medray.evaluate.conversation import refuse_two_steps
    from medray.evaluate.decoding import Decoding
    from medray.evaluate.serve.deployment import Serving
    from medray.evaluate.serve.limits import Limits
    from medray.evaluate.serve.token import wanted_digest

    refuse_two_steps(named.asked, "serve")
    decoding = Decoding.of(named.config.eval.generation)
    if decoding.max_new_tokens > arguments.max_new_tokens:
        decoding = replace(decoding, max_new_tokens=arguments.max_new_tokens)
    return Serving(
        asked=replace(named.asked, decoding=decoding),
        name=arguments.name or _own_name(arguments.model),
        limits=Limits(
            body_bytes=arguments.max_body_kb << 10,
            answer_tokens=arguments.max_new_tokens,
            batch=arguments.max_batch,
            waiting=arguments.max_waiting,
        ),
        token=wanted_digest(arguments.host, variable=arguments.token_env, file=arguments.token_file),
        host=arguments.host,
        port=arguments.port,
        replicas=arguments.replicas,
    )


def _check(arguments: argparse.Namespace) -> None:
    """Check the options that do not depend on the model."""
    # Not find_spec("ray.serve"), which imports Ray before its environment is set.
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "starlette", "uvicorn")):
        raise InputError(
            "Ray Serve is not installed", key="medray serve", fix="run `pip install 'medray[serve]'`"
        )
    for name in ("replicas", "cpus", "max_batch", "max_waiting", "max_new_tokens", "max_body_kb"):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= 1_000_000:
            raise InputError(
                "must be between 1 and 1,000,000",
                key=f"--{name.replace('_', '-')}",
                value=value,
                fix="use 1 or more",
            )
    if arguments.name is not None and not re.fullmatch(r"[\w.-][\w./-]{0,99}", arguments.name):
        raise InputError(
            "a name has up to 100 letters, digits and the signs . _ - /",
            key="--name",
            value=arguments.name[:100],
            fix="use a name such as notes",
        )


def _own_name(model: str) -> str:
    """Return the last part of the path of a run or model."""
    parts = re.sub(r"\.ya?ml$", "", model).replace("\\", "/").rstrip("/").split("/")
    if len(parts) > 1 and parts[-1] in ("export", "."):
        parts = parts[:-1]
    return re.sub(r"[^\w.-]", "-", parts[-1])[:100] or "model"


def _access(serving: Serving) -> str:
    return "without a token, for this machine only" if serving.token is None else "with the token"


def _refuse_stopped(stop: StopSwitch) -> None:
    if stop.reason:
        raise StoppedError(
            "the command was stopped before the model was served. Fix: run the same command again"
        )


def _say(text: str) -> None:
    print(f"medray: {text}", file=sys.stderr, flush=True)
