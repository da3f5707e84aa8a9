"""The keys of preference training: each is read by the chosen loss, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from medray.config import Config
from medray.config.checks.method import check_method, notes
from medray.config.method_specs import spec_of
from medray.errors import InputError

DPO: dict[str, Any] = {"name": "dpo"}
LORA: dict[str, Any] = {"peft": {"type": "lora"}}


def config(method: dict[str, Any], **sections: Any) -> Config:
    return Config.model_validate({"method": method, **sections})


@pytest.mark.parametrize(
    "method",
    [
        DPO,
        DPO | {"loss": "dpop", "dpop_lambda": 50.0, "penalty": "outside", "label_smoothing": 0.1},
        DPO | {"loss": "simpo", "beta": 2.0, "gamma": 1.0},
        DPO | {"loss": "orpo", "nll_weight": 0.5},
        DPO | {"loss": "ipo", "nll_weight": 0.0},
    ],
)
def test_what_goes_together(method: dict[str, Any]) -> None:
    check_method(config(method))
    made = config(method)
    assert Config.model_validate(made.model_dump()) == made  # a resolved config names all keys
    check_method(Config.model_validate(made.model_dump()))


@pytest.mark.parametrize(
    ("method", "key", "said"),
    [
        ({"beta": 0.4}, "beta", "no effect with method.name: sft"),
        ({"name": "distill", "loss": "dpop"}, "loss", "no effect with method.name: distill"),
        (DPO | {"dpop_lambda": 1.0}, "dpop_lambda", "no effect with method.loss: sigmoid"),
        (DPO | {"loss": "dpop", "gamma": 1.0}, "gamma", "no effect with method.loss: dpop"),
        (DPO | {"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing", "no effect"),
        (DPO | {"loss": "orpo", "reference": "live"}, "reference", "no effect with method.loss: orpo"),
        (DPO | {"alpha": 0.2}, "alpha", "no effect with method.name: dpo"),
        (DPO | {"train_on": "all"}, "train_on", "no effect with method.name: dpo"),
        (DPO | {"loss_norm": "micro_batch"}, "loss_norm", "no effect with method.name: dpo"),
        (DPO | {"reference": "live"}, "reference", "trains all weights"),
    ],
)
def test_what_would_have_no_effect_is_refused(method: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        check_method(config(method))
    assert caught.value.key == f"method.{key}"
    assert caught.value.value == method[key]
    assert caught.value.fix


def test_a_live_reference_is_the_model_below_its_adapter() -> None:
    live = DPO | {"reference": "live"}
    check_method(config(live, **LORA))
    with pytest.raises(InputError, match=r"begins with the adapter model\.adapter"):
        check_method(config(live, **LORA, model={"adapter": "earlier/export"}))


def test_smoothed_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="whole answers") as caught:
        check_method(config(DPO, train={"label_smoothing": 0.1}))
    assert caught.value.key == "train.label_smoothing"


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_beta_is_positive(beta: float) -> None:
    with pytest.raises(ValidationError):
        config(DPO | {"beta": beta})


def test_the_published_smoothing_of_dpop_is_noted() -> None:
    assert notes(config(DPO)) == ()
    (note,) = notes(config(DPO | {"loss": "dpop", "label_smoothing": 0.1}))
    assert "also rewards the penalty" in note


def test_what_is_logged_follows_the_loss() -> None:
    assert spec_of(config(DPO).method).terms == ("preference",)
    assert spec_of(config(DPO | {"loss": "orpo"}).method).terms == ("preference", "label")
    assert "penalized_pairs" in spec_of(config(DPO | {"loss": "dpop"}).method).metrics
    assert spec_of(config(DPO | {"loss": "simpo"}).method).reference is None
