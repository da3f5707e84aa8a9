"""GPUs by name."""

from __future__ import annotations

import pytest

from medray.errors import InputError
from medray.plan.gpus import GPUS, gpu, parse, smallest, with_count


@pytest.mark.parametrize(
    ("text", "name", "nodes", "per_node"),
    [
        ("4x8xH100-80GB", "H100-80GB", 4, 8),
        ("8xA100-40GB", "A100-40GB", 1, 8),
        ("H200", "H200", 1, 1),
        ("2x4xMI300X", "MI300X", 2, 4),
        ("8xh100", "H100-80GB", 1, 8),
        ("1xL40S", "L40S", 1, 1),
    ],
)
def test_gpus_are_read_from_text(text: str, name: str, nodes: int, per_node: int) -> None:
    found = parse(text)
    assert (found.gpu.name, found.nodes, found.per_node) == (name, nodes, per_node)
    assert found.count == nodes * per_node
    assert parse(found.described) == found


@pytest.mark.parametrize(
    "text", ["", "8x", "8xK80", "0xH100", "2x3x4xH100", "x8H100", "9999999xH100", "-1xT4"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert error.value.key == "--gpus"
    assert error.value.fix


def test_names_of_drivers_and_of_ray_are_known() -> None:
    for text, name in (
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", "T4"),
        ("A100-40G", "A100-40GB"),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA H200", "H200"),
        ("A10G", "A10"),
    ):
        found = gpu(text)
        assert found is not None, text
        assert found.name == name
    assert gpu("Voodoo 2") is None


def test_the_table_is_in_order_of_sense() -> None:
    assert len({one.name for one in GPUS}) == len(GPUS) >= 12
    for one in GPUS:
        assert 15e9 < one.memory < 210e9
        assert 60e12 <= one.rate <= 2.5e15
        assert 30e9 <= one.link <= 2e12
    # Cards are named by decimal or binary gigabytes, and the driver reports a little less than the binary ones.
    for name, size in (("A100-40GB", 40), ("A100-80GB", 80), ("H100-80GB", 80), ("V100-16GB", 16)):
        found = gpu(name)
        assert found is not None
        assert size * 0.96 < found.memory / 2**30 < size


def test_the_smallest_that_holds() -> None:
    for size, bf16, name in (
        (20, True, "A10"),
        (10, True, "A10"),
        (10, False, "T4"),
        (30, False, "V100-32GB"),
    ):
        small = smallest(size * 10**9, bf16=bf16)
        assert small is not None
        assert small.name == name
    assert smallest(10**12, bf16=False) is None


def test_more_of_the_same_kind() -> None:
    more = with_count(parse("1x8xH100"), 20)
    assert (more.nodes, more.per_node) == (3, 8)
