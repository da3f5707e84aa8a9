"""The errors that medray raises: wrong input, which the user can fix, and failures while a run was alive.

A message names the file, the key, the numbers and the fix. It never contains text of a record: a corpus may be about
patients.
"""

from __future__ import annotations

from typing import Any


class MedrayError(Exception):
    """A failure that medray explains itself; the command line exits with `exit_code`."""

    exit_code = 1


class RunFailedError(MedrayError):
    """The input was valid, but the run failed."""


class StoppedError(MedrayError):
    """The run was asked to stop while its workers had nothing new to save. `train` sets the signal's exit code."""


class InputError(MedrayError):
    """The input is wrong.

    what: one sentence that says what is wrong, with the conflicting numbers.
    file, key, value: the origin of the wrong input, as far as known.
    fix: an instruction that solves the problem.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        file: object = None,
        key: str | None = None,
        value: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.file, self.key, self.value, self.fix = what, file, key, value, fix
        super().__init__(what, file, key, value, fix)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error by position: errors are sent between processes."""
        return _input_error, self.args

    def __str__(self) -> str:
        where = ""
        if self.file is not None:
            where += f"{printable(str(self.file))}: "
        if self.key is not None:
            where += printable(self.key) if self.value is None else f"{printable(self.key)} = {self.value!r}"
            where += ": "
        fix = f"\n  Fix: {printable(self.fix)}" if self.fix else ""
        return f"{where}{printable(self.what)}{fix}"


def printable(text: str) -> str:
    """Return `text` with escapes for characters that a terminal obeys: control characters, bidirectional marks, newlines."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _input_error(what: str, file: object, key: str | None, value: object, fix: str | None) -> InputError:
    return InputError(what, file=file, key=key, value=value, fix=fix)
