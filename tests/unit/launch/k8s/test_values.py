"""Values of `launch.k8s` by their form: what no cluster takes is found when the config is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from launched import config_file

from medray.config import read
from medray.errors import InputError


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("mount_path", ["/", "/etc/medray", "/tmp", "/tmp/ray", "/dev/shm", "//data", "/data/../tmp", "/./tmp", "/usr"]),
        ("image", ["reg/x:1 --evil", "${X}:1", "x:1@sha256:zz", "-x:1", "x:", "x/:1", "Upper:1", "a//b:1"]),
        ("gpu_resource", ["'a: b'", "cpu", "memory", "nvidia.com/", "/gpu", "a..b/gpu"]),
        ("namespace", ["a..b", "a.b", "a" * 64, "-a"]),
        ("queue", ["a..b", "a" * 64]),
        ("volume_claim", ["a..b", "a.-b", "a" * 254]),
        ("secrets", ["[a..b]"]),
    ],
)  # fmt: skip
def test_values_that_no_cluster_takes_are_refused(key: str, values: list[str], tmp_path: Path) -> None:
    for value in values:
        with pytest.raises(InputError) as raised:
            read(config_file(tmp_path), [f"launch.k8s.{key}={value}"])
        assert str(raised.value.key).startswith(f"launch.k8s.{key}"), value
        assert raised.value.fix, value


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("mount_path", ["/medray", "/mnt/shared/a.b", "/data/"]),
        ("image", ["registry:5000/a/b-c__d:1", f"x@sha256:{64 * 'a'}", f"Reg.io/x:1@sha256:{64 * '0'}", "ghcr.io/a/b.c:v1_2-3"]),
        ("gpu_resource", ["amd.com/gpu", "nvidia.com/mig-1g.5gb"]),
        ("namespace", ["a", "team-1", "a" * 63]),
        ("volume_claim", ["a.b-c.d"]),
    ],
)  # fmt: skip
def test_values_that_a_cluster_takes_are_taken(key: str, values: list[str], tmp_path: Path) -> None:
    for value in values:
        config = read(config_file(tmp_path), [f"launch.k8s.{key}={value}"])
        assert getattr(config.launch.k8s, key) == value
