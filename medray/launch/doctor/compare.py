"""Comparison of what must be the same on all nodes of a cluster: versions of packages, and clocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from medray.launch.doctor.finding import Finding, fail, ok, warn

HERE = "this machine"
_SAME = "install the same versions on all nodes, with `make install` or with one image for all of them"
CLOCK_WARN, CLOCK_FAIL = 2.0, 300.0  # seconds; S3 and Kerberos refuse requests that are 5 to 15 minutes off


def different_versions(
    nodes: Mapping[str, Mapping[str, str]], here: Mapping[str, str], refused: Collection[str]
) -> list[Finding]:
    """Return a finding for each node whose versions differ from this machine, or one finding for all if none differs.

    nodes, here: versions by name, "python" or a package. refused: packages that must not differ for a run to begin;
    neither may Python.
    """
    import platform

    mine = {"python": platform.python_version(), **here}
    found = []
    for node, theirs in nodes.items():
        names = [name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)]
        if not names:
            continue
        table = ", ".join(
            f"{name} {theirs.get(name, 'absent')} (here {mine.get(name, 'absent')})" for name in names
        )
        if names == ["medray"] and "medray" not in theirs:
            one = warn(
                "same versions",
                "medray is not installed on this node",
                "use `medray launch job`, which sends medray along, or install it on the node",
            )
        elif {name for name in names if _release(mine, name) != _release(theirs, name)} & {
            "python",
            *refused,
        }:
            one = fail(
                "same versions", f"{table}: a run does not start on nodes with these differences", _SAME
            )
        else:
            one = warn("same versions", f"{table}: results may depend on the node", _SAME)
        found.append(one.on(node))
    return found or [ok("same versions", f"the same {len(mine)} versions on all nodes and on {HERE}")]


def _release(versions: Mapping[str, str], name: str) -> str:
    """Return the version without its build: 2.13.0 for 2.13.0+cpu."""
    return versions.get(name, "").partition("+")[0]


def different_clocks(offsets: Mapping[str, tuple[float, float] | None]) -> list[Finding]:
    """Return a finding for each node whose clock is wrong, or one finding if all clocks are right.

    offsets: for each node (seconds ahead of this machine, accuracy in seconds), or None if the node did not answer.
    """
    found = []
    for node, measured in offsets.items():
        if measured is None:
            found.append(
                fail(
                    "clock", "the node did not send its time", "check the load of the node and its network"
                ).on(node)
            )
            continue
        ahead, exact = measured
        surely = max(abs(ahead) - exact, 0.0)
        detail = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} {HERE}"
        way = "run a time service on all nodes (chrony, systemd-timesyncd)"
        if surely > CLOCK_FAIL:
            found.append(
                fail(
                    "clock", f"{detail}: S3 and Kerberos refuse requests of a node with such a clock", way
                ).on(node)
            )
        elif surely > CLOCK_WARN:
            found.append(
                warn("clock", f"{detail}: log lines and step times of the nodes are out of order", way).on(
                    node
                )
            )
    most = max((exact for measured in offsets.values() if measured for exact in measured[1:]), default=0.0)
    return found or [ok("clock", f"all within {CLOCK_WARN + most:.1f} s of {HERE}")]
