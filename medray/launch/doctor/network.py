"""Check whether nodes reach each other on arbitrary ports, which NCCL and gloo use, and how fast the connection is."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from medray.launch.doctor.finding import Finding, fail, ok, reason, warn

PAYLOAD = 4 << 20
SLOW_RATE, SLOW_SECONDS = (
    10e6,
    0.05,
)  # bytes per second, and seconds to connect; a gigabit network has 120e6 and 0.0005
READ_BYTES = 1 << 16
TRIES = 3
CLIENTS = 64  # number of connections that are served: the port is open for seconds, and a flood must not load the node


class Source:
    """A server on a port that the system chooses.

    It sends PAYLOAD zero bytes to each client until `close` is called.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.create_server((address, 0), backlog=CLIENTS)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # close alone does not end a waiting accept
        self._socket.close()

    def _serve(self) -> None:
        for _ in range(CLIENTS):
            try:
                client, _address = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._send, args=(client,), daemon=True).start()

    @staticmethod
    def _send(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(10)
            client.sendall(bytes(PAYLOAD))


def connects(address: str, port: int, seconds: float) -> str | None:
    """Return why a port cannot be reached, or None if it can."""
    try:
        socket.create_connection((address, port), seconds).close()
    except OSError as error:
        return "no answer" if isinstance(error, TimeoutError) else reason(error)
    return None


def reach(peers: list[tuple[str, str, int]], seconds: float) -> list[Finding]:
    """Connect to other nodes.

    Return a finding for each that is not reached or is slow, or one finding if all are fine.

    peers: (node, address, port) of each node.
    """
    found = [
        one for node, address, port in peers if (one := _reach(node, address, port, seconds / len(peers)))
    ]
    return found or [
        ok("network", f"this node reaches {len(peers)} other node{'s' * (len(peers) > 1)} on any port")
    ]


def _reach(node: str, address: str, port: int, seconds: float) -> Finding | None:
    end = time.monotonic() + seconds
    connect, got = seconds, 0
    try:
        for _ in range(TRIES - 1):  # a busy machine delays one connection, a slow link delays all of them
            began = time.monotonic()
            socket.create_connection((address, port), max(end - began, 0.1)).close()
            connect = min(connect, time.monotonic() - began)
        began = time.monotonic()
        with socket.create_connection((address, port), max(end - began, 0.1)) as source:
            connected = time.monotonic()
            connect = min(connect, connected - began)
            while (left := end - time.monotonic()) > 0:
                source.settimeout(left)
                if not (read := len(source.recv(READ_BYTES))):
                    break
                got += read
    except OSError as error:
        if not got:
            why = "no answer" if isinstance(error, TimeoutError) else reason(error)
            return fail(
                "network",
                f"this node cannot reach {node} on a port that the system chose ({why})",
                "open all ports between the nodes, because NCCL and gloo may use any; with several networks, set "
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME",
            )
    rate = got / max(time.monotonic() - connected, 1e-6)
    if got < PAYLOAD or rate < SLOW_RATE or connect > SLOW_SECONDS:
        return warn(
            "network",
            f"{node} is slow from this node: {rate / 1e6:.2f} MB/s, {1000 * connect:.0f} ms to connect",
            "train on nodes of one fast network; check the link, the switch and other traffic",
        )
    return None
