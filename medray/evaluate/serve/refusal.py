"""A request that is refused, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from medray.errors import printable

LONGEST_NAME = 60  # characters of a key of the request that a message repeats


class RefusedError(Exception):
    """The answer to a request that cannot be answered.

    status: of HTTP. message: says what is wrong and how to fix it; it never contains text of the request, except for
    the name of a key. param: the key that is wrong. code: a short name that a program can read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        wait: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {"retry-after": str(wait)} if wait is not None else {}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def wrong(param: str, message: str, code: str | None = None) -> RefusedError:
    """Return the refusal of a value of the request."""
    return RefusedError(400, f"{param}: {message}", param=param, code=code)


def shown(name: str) -> str:
    """Return the name of a key of a request, short and without characters that a terminal obeys."""
    return printable(name[:LONGEST_NAME])
