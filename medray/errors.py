"""What a user did wrong, said so that they can fix it; and what failed while a run was alive.

Messages name files, keys, numbers and the way out. They never hold text of a record: a corpus may be about patients.
"""

from __future__ import annotations

from typing import Any


class MedrayError(Exception):
    """Any failure that medray explains itself; `exit_code` is what the command line returns."""

    exit_code = 1


class RunFailedError(MedrayError):
    """The input was sound, the run failed."""


class StoppedError(MedrayError):
    """The run was told to stop while its workers had nothing new to save. `train` gives it the signal's exit code."""


class InputError(MedrayError):
    """The input is wrong.

    what: one sentence, with the numbers that clash.
    file, key, value: where it stands, as far as known.
    fix: what would work, as an instruction.
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
        """Errors travel between processes, and exceptions are pickled by position."""
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
    """`text` with escapes in place of what a terminal would obey: control characters, changes of direction, newlines."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _input_error(what: str, file: object, key: str | None, value: object, fix: str | None) -> InputError:
    return InputError(what, file=file, key=key, value=value, fix=fix)
