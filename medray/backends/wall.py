"""The privacy wall: text of records leaves this machine only where the user's config allows it.

A backend without a base_url runs in this process. A server is on this machine if its host is a loopback address; a name is
resolved, and all of its addresses must be loopback. Whether a server on this machine forwards what it receives, as a proxy
does, cannot be seen from here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from medray.backends.protocol import Kind, Request
from medray.config.backends import BackendConfig
from medray.errors import InputError


def is_on_this_machine(base_url: str) -> bool:
    """Return whether the host of a URL is this machine. A name other than localhost counts as another machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    if host != "localhost":
        return False
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(each)).is_loopback for each in found)


def allows(section: BackendConfig, kind: Kind) -> bool:
    """Return whether a backend may receive texts of this kind."""
    if kind == "synthetic" or section.may_receive == "records" or section.base_url is None:
        return True
    return is_on_this_machine(section.base_url)


def host_of(base_url: str) -> str:
    """Return host and port of a URL, for messages."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


def check_kinds(section: BackendConfig, counts: Mapping[Kind, int], key: str) -> None:
    """Check before any request is sent that a backend may receive all of them.

    counts: number of requests of each kind. key: dotted key of the section. Raises InputError with the counts.
    """
    refused = sum(count for kind, count in counts.items() if count and not allows(section, kind))
    if refused:
        raise InputError(
            f"{refused:,} of {sum(counts.values()):,} requests contain text of records, and "
            f"{host_of(section.base_url or '')} is not this machine; nothing was sent",
            key=f"{key}.may_receive",
            value=section.may_receive,
            fix="set may_receive: records if these texts may leave this machine, or use a server on this machine",
        )


def refusal(section: BackendConfig, request: Request) -> str | None:
    """Return why a request must not be sent, or None."""
    if allows(section, request.holds):
        return None
    return f"contains text of records, which {host_of(section.base_url or '')} may not receive"
