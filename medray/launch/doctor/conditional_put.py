"""An upload to S3 that fails if the object exists (`If-None-Match: *`, a conditional put), which pyarrow does not offer.

The request is signed here (AWS Signature Version 4, docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html): one
request of `medray doctor` is not worth a dependency on an SDK.
"""

from __future__ import annotations

import configparser
import hashlib
import hmac
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SECONDS = 4.0
NONE = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, repr=False)
class Keys:
    """The AWS credentials of a request. session: the token of temporary credentials, empty for permanent ones."""

    access: str
    secret: str
    session: str = ""


def keys() -> Keys | None:
    """Return the credentials from the environment or from the profile in ~/.aws, or None.

    A machine's role is not looked up.
    """
    found = [
        os.environ.get(f"AWS_{name}", "") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    ]
    if found[0] and found[1]:
        return Keys(*found)
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profiles = configparser.RawConfigParser()
    try:
        profiles.read(file)
        profile = profiles[os.environ.get("AWS_PROFILE") or "default"]
        return Keys(
            profile["aws_access_key_id"],
            profile["aws_secret_access_key"],
            profile.get("aws_session_token", ""),
        )
    except (OSError, KeyError, configparser.Error):
        return None


def put_new(bucket: str, key: str, using: Keys) -> int:
    """Create an empty object unless `key` exists. Return the HTTP status, which is 412 if the key exists.

    Raises OSError if the service does not answer.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    path = "/" + urllib.parse.quote(key)
    if endpoint:
        base = endpoint.rstrip("/") if "://" in endpoint else f"https://{endpoint.rstrip('/')}"
        path = f"/{urllib.parse.quote(bucket)}{path}"
    else:
        base = f"https://{bucket}.s3.{region}.amazonaws.com"
    parts = urllib.parse.urlsplit(base)
    path = parts.path + path
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "if-none-match": "*", "x-amz-content-sha256": NONE, "x-amz-date": now}
    if using.session:
        headers["x-amz-security-token"] = using.session
    headers["authorization"] = _signature(path, headers, now, region, using)
    headers["content-type"] = "application/octet-stream"  # urllib's default is a form
    request = urllib.request.Request(
        f"{parts.scheme}://{parts.netloc}{path}", data=b"", headers=headers, method="PUT"
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


def _signature(path: str, headers: dict[str, str], now: str, region: str, using: Keys) -> str:
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join(["PUT", path, "", lines, names, NONE])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{using.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={using.access}/{scope}, SignedHeaders={names}, Signature={signature}"
