"""What is known of a run before its workers start: names of modules, held against a model without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medray.cli.cluster import PRIVATE
from medray.cli.main import main
from medray.config import Config
from medray.errors import InputError
from medray.plan.model_config import PRESETS
from medray.train.checks import check_names


def check(family: str, peft: dict[str, Any], groups: list[dict[str, Any]] | None = None) -> None:
    values = {
        "data": {"dataset": "clinic"},
        "model": {"preset": family, "init": "random"},
        "peft": peft,
        "train": {"optimizer": {"groups": groups or []}},
    }
    check_names(Config.model_validate(values), PRESETS[family])


LORA = {"type": "lora", "targets": ["q_proj", "v_proj"]}
WORDS = {"type": "prompt", "init_text": "summarize the visit"}


@pytest.mark.parametrize(
    ("family", "peft", "groups"),
    [
        ("llama-tiny", LORA, []),
        ("llama-tiny", LORA | {"dora": True}, [{"match": "lora_B", "lr_scale": 16.0}]),
        ("llama-tiny", {"type": "none"}, [{"match": "embed_tokens", "lr_scale": 0.1}]),
        ("t5-tiny", {"type": "adalora", "targets": ["q", "v"]}, [{"match": "lora_E", "lr_scale": 2.0}]),
        ("t5-tiny", WORDS, [{"match": "prompt", "lr_scale": 2.0}]),
        ("t5-tiny", {"type": "ia3"}, []),
    ],
)
def test_names_that_the_model_has(family: str, peft: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    check(family, peft, groups)


def test_names_that_it_has_not_are_refused_before_anything_starts() -> None:
    with pytest.raises(InputError, match="v_projj"):
        check("llama-tiny", LORA | {"targets": ["q_proj", "v_projj"]})
    # It is in the model, and frozen.
    with pytest.raises(InputError, match=r"groups\[0\]") as caught:
        check("llama-tiny", LORA, [{"match": "embed_tokens", "lr_scale": 0.1}])
    assert "one of layers, lora_A, lora_B, q_proj, self_attn, v_proj, weight, or" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("peft={type: lora, targets: [v_projj]}", "peft.targets = 'v_projj'"),
        (
            "train.optimizer={groups: [{match: nowhere, lr: 1.0}]}",
            "train.optimizer.groups[0].match = 'nowhere'",
        ),
        ("train.deepspeed={wall_clock: true}", "train.deepspeed.wall_clock"),
        ("train.deepspeed={zero_optimization: {overlap: 1}}", "train.deepspeed.zero_optimization.overlap"),
        ("method={name: distill, variant: cosine}", "method.variant"),
    ],
)
def test_what_a_model_tells_is_refused_before_the_run_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    said: str,
) -> None:
    """The check runs beside the start of a cluster, which is ended again."""
    calls: list[str] = []
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_worker_niceness", *PRIVATE):
        monkeypatch.setenv(name, "")  # set by the command for a cluster of its own: absent again afterwards
        monkeypatch.delenv(name)
    for call in ("connect", "disconnect"):
        monkeypatch.setattr(f"medray.cli.cluster.{call}", lambda *_, call=call: calls.append(call))
    file = tmp_path / "run.yaml"
    file.write_text("data: {dataset: clinic}\nmodel: {preset: llama-tiny, init: random}\n")
    assert main(["train", str(file), override]) == 2
    assert f"medray: command line: {said}" in capsys.readouterr().err
    assert calls in ([], ["connect", "disconnect"])
