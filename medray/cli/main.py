"""The command `medray VERB …`. Heavy imports stay inside the verbs, so that help and config errors appear at once."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from medray import __version__
from medray.cli import (
    chat,
    config,
    data,
    doctor,
    eval,
    export,
    icl,
    judge,
    launch,
    logs,
    plan,
    predict,
    report,
    serve,
    status,
    stop,
    synth,
    train,
    tune,
    ui,
)
from medray.errors import InputError, MedrayError, printable

# Libraries must not send usage data or start downloads unasked. Set before any library is imported.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives the cluster would join that of another user
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# Files that medray writes may be about patients, so only their owner may read them. A Ray that `train` starts inherits it.
PRIVATE = 0o077


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, with all verbs."""
    top = argparse.ArgumentParser(
        prog="medray", description="Tune language models on medical text, on any Ray cluster."
    )
    top.add_argument("--version", action="version", version=f"medray {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in (
        train,
        tune,
        predict,
        chat,
        serve,
        status,
        logs,
        stop,
        eval,
        report,
        plan,
        launch,
        data,
        judge,
        icl,
        synth,
        export,
        doctor,
        config,
        ui,
    ):
        verb.add_to(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb in `argv` and return the exit code.

    0: done. 1: failed. 2: wrong input. 75 or 130: stopped and saved. 76: stopped on request.
    """
    arguments = _parsed(argv)
    os.umask(PRIVATE)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except MedrayError as error:
        _name_the_config(error, arguments)
        print("\n".join(map(printable, f"medray: {error}".split("\n"))), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before a run has begun: later `train` handles it
        print("medray: interrupted", file=sys.stderr)
        return 130
    except (
        BrokenPipeError
    ):  # the reader of our output closed it; without this, Python would flush the rest when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if not isinstance(error.filename, str):
            raise
        print(printable(f"medray: {error.filename}: {error.strerror}"), file=sys.stderr)
        print("  Fix: use a path that you may read and write", file=sys.stderr)
        return InputError.exit_code
    return code


def _name_the_config(error: MedrayError, arguments: argparse.Namespace) -> None:
    """Add the origin of a key to the error: the config or the command line. A key that begins with -- is an option."""
    if not isinstance(error, InputError) or error.file is not None:
        return
    if not error.key or error.key.startswith("--"):
        return
    from medray.config.explain import COMMAND_LINE  # --help need not wait for pydantic

    given = [text.partition("=")[0] for text in getattr(arguments, "overrides", ())]
    dotted = f"{error.key.replace('[', '.[')}."  # an override of a list also covers its entries
    if any(dotted.startswith(f"{key}.") or f"{key}.".startswith(dotted) for key in given):
        error.file = COMMAND_LINE
    else:
        error.file = getattr(arguments, "config", None)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments. `key=value` is allowed after options too, which argparse alone refuses; so are data files."""
    top = parser()
    words = list(sys.argv[1:] if argv is None else argv)
    own, passed = words, []  # words after -- are for the program that `launch` calls
    if words[:1] == ["launch"] and "--" in words:
        own, passed = words[: words.index("--")], words[words.index("--") + 1 :]
    arguments, rest = top.parse_known_args(own)
    arguments.passed = passed
    # Verbs that take data files too have both in `words`.
    words_of, allowed = ("words", r"[^-]") if hasattr(arguments, "words") else ("overrides", r"[^-].*=")
    if rest and not (hasattr(arguments, words_of) and all(re.match(allowed, text) for text in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(arguments, words_of).extend(rest)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
