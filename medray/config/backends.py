"""The section that describes who answers prompts: a server, a local model, a rule, or a file of recorded replies.

It is part of files of their own (`judge`, `synth`, `icl`), not of a training config.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from medray.config.loading.credentials import has_credentials
from medray.config.section import Section, key

# The keys that each type reads, besides `type`. A key that a type ignores is refused where the user wrote it.
KEYS: dict[str, frozenset[str]] = {
    "endpoint": frozenset(
        {"base_url", "model", "key_env", "may_receive", "body", "max_tokens_key", "limits", "price"}
    ),
    "batch": frozenset(
        {
            "base_url",
            "model",
            "key_env",
            "may_receive",
            "body",
            "max_tokens_key",
            "limits",
            "price",
            "poll_seconds",
        }
    ),
    "local": frozenset({"model"}),
    "replay": frozenset({"file"}),
    "rule": frozenset({"rule"}),
}
NEEDED: dict[str, tuple[str, ...]] = {
    "endpoint": ("base_url", "model"),
    "batch": ("base_url", "model"),
    "local": ("model",),
    "replay": ("file",),
    "rule": ("rule",),
}


class LimitsConfig(Section):
    """Limits on requests to a server, and on the time that medray waits for it."""

    concurrency: int = key(4, "Requests in flight at once.", ge=1, le=512)
    requests_per_minute: int | None = key(
        None, "Most requests in any minute, retries included; null: no limit.", ge=1
    )
    tokens_per_minute: int | None = key(
        None, "Most tokens in any minute, prompt and longest reply together; null: no limit.", ge=1
    )
    timeout_seconds: float = key(120.0, "Longest time for one reply.", gt=0, le=3600)
    retries: int = key(5, "Times a failed request is sent again.", ge=0, le=20)
    first_wait_seconds: float = key(
        1.0, "Wait before the first retry; each further wait is twice as long, less a random part.", gt=0
    )
    longest_wait_seconds: float = key(
        60.0, "Longest wait before a retry. A server's Retry-After may be longer.", gt=0
    )


class PriceConfig(Section):
    """Your prices, in your currency. Without this section, a backend costs nothing."""

    prompt_per_million: float = key(..., "Price of a million tokens of prompts.", ge=0)
    completion_per_million: float = key(..., "Price of a million tokens of replies.", ge=0)


class BackendConfig(Section):
    """A backend: who answers prompts."""

    type: Literal["endpoint", "batch", "local", "replay", "rule"] = key(
        "endpoint",
        "endpoint: an OpenAI-compatible server; batch: its batch interface; local: a model on this machine; replay: recorded "
        "replies; rule: a named rule.",
    )
    base_url: str | None = key(
        None, "URL of the server up to and without /chat/completions, such as http://127.0.0.1:8000/v1."
    )
    model: str | None = key(
        None, "Name of the model at the server; for local: a run, a folder, or a name as in model.name."
    )
    key_env: str | None = key(
        None,
        "Environment variable that contains the API key; null: no key is sent.",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    may_receive: Literal["synthetic", "records"] = key(
        "synthetic",
        "The texts that a server on another machine may receive: records allows text of your data; synthetic does not.",
    )
    body: dict[str, Any] = key(
        {}, "Further fields of each request, such as {reasoning_effort: low}; null removes a field."
    )
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = key(
        "max_tokens", "Name of the field that limits a reply; some models accept only one of them."
    )
    poll_seconds: float = key(30.0, "For batch: seconds between two looks at its progress.", gt=0, le=3600)
    file: str | None = key(None, "For replay: JSON lines file of recorded replies.")
    rule: str | None = key(None, "For rule: the name of the rule.")
    limits: LimitsConfig = key(LimitsConfig(), "Limits on requests, waits and retries.")
    price: PriceConfig | None = key(None, "Prices, for the cost and the budget; null: free.")

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if has_credentials(value) or "@" in value:
            raise ValueError(
                "contains credentials", "remove them, and name the variable that contains the key as key_env"
            )
        if not value.startswith(("http://", "https://")):
            raise ValueError(
                "is not an http:// or https:// URL", "use a URL such as http://127.0.0.1:8000/v1"
            )
        if value.rstrip("/").endswith("/chat/completions"):
            raise ValueError("contains /chat/completions, which is added", "remove /chat/completions from it")
        return value

    @field_validator("body")
    @classmethod
    def _leaves_own_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("messages", "model", "stream", "n"):
            if name in value:
                raise ValueError(f"sets {name}, which medray sets itself", f"remove {name} from body")
        return value

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        for name in NEEDED[self.type]:
            if getattr(self, name) is None:
                raise ValueError(f"type {self.type} needs {name}", f"set {name}, or another type")
        for name in sorted(self.model_fields_set - KEYS[self.type] - {"type"} - _with_other_keys(self)):
            raise ValueError(f"type {self.type} ignores {name}", f"remove {name}, or set another type")
        return self


def _with_other_keys(section: BackendConfig) -> frozenset[str]:
    """Return the keys that a subclass adds, such as the name of a judge: every type reads them."""
    return frozenset(type(section).model_fields) - frozenset(BackendConfig.model_fields)
