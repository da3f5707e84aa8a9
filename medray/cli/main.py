"""`medray VERB …`. Heavy imports stay inside the verbs: help and a config error answer at once."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from medray import __version__
from medray.cli import config, data, doctor, export, launch, logs, status, stop, train, ui
from medray.errors import InputError, MedrayError, printable

# Nothing calls home, and nothing is fetched behind the user's back. Set before any library is imported.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# What medray writes may be about patients, so it is for its owner alone. A Ray that `train` starts inherits it.
PRIVATE = 0o077


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="medray", description="Tune language models on medical text, on any Ray cluster."
    )
    top.add_argument("--version", action="version", version=f"medray {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in (train, status, logs, stop, launch, data, export, doctor, config, ui):
        verb.add_to(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0 done, 1 failed, 2 wrong input, 75 or 130 stopped and saved, 76 stopped on request."""
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
    except KeyboardInterrupt:  # before a run has begun: `train` handles what comes later
        print("medray: interrupted", file=sys.stderr)
        return 130
    except (
        BrokenPipeError
    ):  # whoever read our output has enough; Python would flush the rest once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if not isinstance(error.filename, str):
            raise
        print(printable(f"medray: {error.filename}: {error.strerror}"), file=sys.stderr)
        print("  Fix: name a place that you may read and write", file=sys.stderr)
        return InputError.exit_code
    return code


def _name_the_config(error: MedrayError, arguments: argparse.Namespace) -> None:
    """Only here it is known where a key stands. A key that begins with -- is an option of the command."""
    if not isinstance(error, InputError) or error.file is not None:
        return
    if not error.key or error.key.startswith("--"):
        return
    from medray.config.explain import COMMAND_LINE  # --help need not wait for pydantic

    given = [text.partition("=")[0] for text in getattr(arguments, "overrides", ())]
    dotted = f"{error.key.replace('[', '.[')}."  # an entry of a list that was given stands in it
    if any(dotted.startswith(f"{key}.") or f"{key}.".startswith(dotted) for key in given):
        error.file = COMMAND_LINE
    else:
        error.file = getattr(arguments, "config", None)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes no `key=value` after an option that follows the config; a user does not know why not."""
    top = parser()
    words = list(sys.argv[1:] if argv is None else argv)
    own, passed = words, []  # what stands behind -- is for the program that `launch slurm` calls
    if words[:1] == ["launch"] and "--" in words:
        own, passed = words[: words.index("--")], words[words.index("--") + 1 :]
    arguments, rest = top.parse_known_args(own)
    arguments.passed = passed
    if rest and not (hasattr(arguments, "overrides") and all(re.match(r"[^-].*=", text) for text in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


if __name__ == "__main__":
    sys.exit(main())
