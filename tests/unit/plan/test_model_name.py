"""A misspelt name of a model is refused without a search on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.config.model import ModelConfig
from medray.errors import InputError
from medray.plan import model_name
from medray.plan.model_name import check_exists


def _no_hub(model: ModelConfig, size: int) -> None:
    raise AssertionError("the hub was asked")


@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m-instrct",
        "/nowhere/model",
        "./nowhere",
        "~/model",
        "runs/notes",
        "a/b/c",
        "",
        "two words",
    ],
)
def test_a_name_that_no_hub_can_have_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_name, "described_offline", _no_hub)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError) as caught:
        check_exists(name, "RUN|MODEL")
    assert caught.value.key == "RUN|MODEL"


def test_a_packaged_model_and_a_folder_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_name, "described_offline", _no_hub)
    check_exists("smollm2-135m-instruct", "RUN|MODEL")
    check_exists(str(tmp_path), "RUN|MODEL")
    with pytest.raises(InputError) as caught:
        check_exists("smollm2-135-instruct", "RUN|MODEL")
    assert caught.value.fix == "did you mean smollm2-135m-instruct?"


def test_the_hub_is_asked_for_a_name_that_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def refuse(model: ModelConfig, size: int) -> None:
        asked.append(model.name)
        raise InputError("cannot get it", key="model.name", fix="none")

    monkeypatch.setattr(model_name, "described_offline", refuse)
    for name in ("gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        with pytest.raises(InputError, match="the hub does not give a model of this name"):
            check_exists(name, "RUN|MODEL")
    assert asked == ["gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct"]
