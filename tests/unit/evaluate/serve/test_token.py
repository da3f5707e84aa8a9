"""A server's token: where it comes from, which ones are refused, and where none is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.errors import InputError
from medray.evaluate.serve.token import VARIABLE, allowed, digest, is_loopback, wanted_digest

TOKEN = "0123456789abcdef"


def test_a_token_is_wanted_unless_the_address_is_of_this_machine(tmp_path: Path) -> None:
    assert wanted_digest("127.0.0.1", variable=None, file=None, environment={}) is None
    given = {VARIABLE: TOKEN, "OWN": TOKEN + "x"}
    assert wanted_digest("127.0.0.1", variable=None, file=None, environment=given) == digest(TOKEN)
    assert wanted_digest("0.0.0.0", variable="OWN", file=None, environment=given) == digest(TOKEN + "x")
    for host in ("0.0.0.0", "::", "10.0.0.1", "127.0.0.1.example"):
        assert not is_loopback(host)
        with pytest.raises(InputError, match="other machines"):
            wanted_digest(host, variable=None, file=None, environment={})
    assert is_loopback("::1")
    assert is_loopback("localhost")
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    assert wanted_digest("0.0.0.0", variable=None, file=file, environment={}) == digest(TOKEN)


@pytest.mark.parametrize(
    ("variable", "text", "mode", "message"),
    [
        ("ABSENT", None, 0, "not set"),
        ("SHORT", None, 0, "characters"),
        ("SPACE", None, 0, "characters"),
        ("SHORT", TOKEN, 0o600, "exclude"),
        (None, TOKEN, 0o640, "other users"),
        (None, "short", 0o600, "characters"),
        (None, "x" * 5000, 0o600, "characters"),
    ],
)
def test_a_wrong_token_is_refused_and_not_shown(
    tmp_path: Path, variable: str | None, text: str | None, mode: int, message: str
) -> None:
    file = None
    if text is not None:
        file = tmp_path / "token"
        file.write_text(text)
        file.chmod(mode)
    given = {"SHORT": "secret", "SPACE": "secret words of a user"}
    with pytest.raises(InputError, match=message) as refused:
        wanted_digest("127.0.0.1", variable=variable, file=file, environment=given)
    assert "secret" not in str(refused.value).split("Fix:")[0]


def test_a_header_is_allowed_only_with_the_whole_token() -> None:
    wanted = digest(TOKEN)
    assert allowed(f"Bearer {TOKEN}", wanted)
    assert allowed(f"bearer {TOKEN}", wanted)
    for header in (
        None,
        "",
        TOKEN,
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        f"Bearer {wanted}",
        "Bearer \udcff",
    ):
        assert not allowed(header, wanted)
