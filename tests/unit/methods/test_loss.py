from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from losses import loss

from medray.config.method import MethodConfig
from medray.config.method_specs import SPECS
from medray.config.method_specs.distill import COSINE
from medray.data.encode import IGNORED
from medray.methods import LOSSES, loss_of
from medray.methods.cross_entropy import TokenLoss, token_loss_sum
from medray.methods.distill import AlphaSchedule, DistillLoss, cosine_loss_sum
from medray.methods.loss import TaskOutput


def test_both_halves_of_a_method_are_registered_under_one_name() -> None:
    assert SPECS.keys() == LOSSES.keys()
    for name in SPECS:
        made = loss_of(MethodConfig(name=name))
        assert type(made) is LOSSES[name]
        assert made.spec == SPECS[name](MethodConfig(name=name))
        assert made.spec.name == name


def test_token_loss_sum_is_the_formula() -> None:
    logits = torch.tensor([[[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], [[0.0, 3.0, 0.0], [9.0, 9.0, 9.0]]])
    labels = torch.tensor([[0, 2], [1, -100]])
    wanted = sum(
        -float(torch.log(torch.exp(logits[row, place, label]) / torch.exp(logits[row, place]).sum()))
        for row, place, label in ((0, 0, 0), (0, 1, 2), (1, 0, 1))
    )
    assert float(token_loss_sum(logits, labels)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_16_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Against float64 over the same values; 16 bits all the way are off by 1e-3 and more, or overflow."""
    torch.manual_seed(0)
    logits, labels = (4 * torch.randn(40, 50)).to(dtype), torch.randint(50, (40,))
    found = token_loss_sum(logits, labels)
    assert found.dtype == torch.float32
    wanted = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum")
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    encodings = (100 * torch.randn(20, 64)).to(dtype)
    cosines = cosine_loss_sum(encodings, torch.ones(20, 1, dtype=torch.long))
    assert cosines.dtype == torch.float32
    first, second = encodings.double().chunk(2)
    by_hand = 1 - (first * second).sum(dim=-1) / (first.norm(dim=-1) * second.norm(dim=-1))
    assert float(cosines) == pytest.approx(float(by_hand.sum()), rel=1e-5)


def test_a_task_without_tokens_adds_zero_and_no_nan() -> None:
    method = loss({"label": 0.3, "rationale": 0.7})
    totals = {"label": 3, "rationale": 0}
    assert method.factors(totals) == {"label": 0.3 / 3, "rationale": 0.0}
    assert method.loss({"label": 6.0, "rationale": 0.0}, totals) == pytest.approx(0.6)
    assert method.means({"label": 6.0, "rationale": 0.0}, totals) == {"label": 2.0}


def test_tasks_have_normalizers_of_their_own() -> None:
    method = loss({"label": 0.5, "rationale": 0.5})
    totals = {"label": 2, "rationale": 100}
    assert method.loss({"label": 4.0, "rationale": 100.0}, totals) == pytest.approx(1.5)
    factors = method.factors(totals)
    assert factors["label"] * 1.0 + factors["label"] * 3.0 == pytest.approx(0.5 * 4.0 / 2)


class TestKeys:
    """L = a * w * S_p/T_p + (1 - a) * reduction over the keys that have tokens of S_k/T_k."""

    METHOD: ClassVar = {"label": 0.6, "rationale/Age": 0.4, "rationale/Sex": 0.4, "rationale/Other": 0.4}
    SUMS: ClassVar = {"label": 8.0, "rationale/Age": 6.0, "rationale/Sex": 0.0, "rationale/Other": 50.0}
    TOTALS: ClassVar = {"label": 4, "rationale/Age": 2, "rationale/Sex": 0, "rationale/Other": 10}

    @pytest.mark.parametrize(("reduction", "term"), [("mean", (3 + 5) / 2), ("sum", 3 + 5)])
    def test_the_rationale_term_is_over_the_keys_that_have_tokens(self, reduction: Any, term: float) -> None:
        method = loss(self.METHOD, reduction=reduction)
        assert method.loss(self.SUMS, self.TOTALS) == pytest.approx(0.6 * 2 + 0.4 * term)
        found = method.means(self.SUMS, self.TOTALS)
        assert found == {"label": 2.0, "rationale/Age": 3.0, "rationale/Other": 5.0, "rationale": term}

    def test_no_key_at_all_is_zero(self) -> None:
        totals = dict.fromkeys(self.TOTALS, 0) | {"label": 4}
        assert loss(self.METHOD).loss(dict.fromkeys(self.SUMS, 0.0), totals) == 0.0


class TestCosine:
    METHOD = loss({"label": 0.25, "rationale": 0.75}, cosine=True)

    def test_it_stands_beside_the_rationale(self) -> None:
        sums, totals = (
            {"label": 4.0, "rationale": 9.0, COSINE: 1.0},
            {"label": 2, "rationale": 3, COSINE: 4},
        )
        assert self.METHOD.loss(sums, totals) == pytest.approx(0.25 * 2 + 0.75 * (3 + 0.25))
        assert self.METHOD.loss(sums | {COSINE: 0.0}, totals | {COSINE: 0}) == pytest.approx(
            0.25 * 2 + 0.75 * 3
        )

    def test_a_row_without_one_of_the_tasks_is_left_out(self) -> None:
        label = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
        rationale = torch.tensor([[0.0, 2.0], [-1.0, 0.0], [0.0, 1.0]])
        has = torch.tensor([[5], [5], [5], [5], [-100], [5]])
        found = cosine_loss_sum(torch.cat([label, rationale]), has)
        assert float(found) == pytest.approx((1 - 0.0) + (1 - 0.8))


class TestSchedule:
    def test_alpha_is_a_function_of_the_epoch(self) -> None:
        schedule = AlphaSchedule(start=0.5, from_epoch=3, slope=0.1, cap=0.9)
        epochs = (0, 2.9, 3, 4, 5.5, 7, 8, 100)
        assert [schedule.alpha(epoch) for epoch in epochs] == pytest.approx(
            [0.5, 0.5, 0.5, 0.6, 0.75, 0.9, 0.9, 0.9]
        )
        assert AlphaSchedule(start=0.5, from_epoch=1, slope=-0.25, cap=0.9).alpha(50) == 0.0

    def test_it_moves_the_weights_and_keeps_the_tasks(self) -> None:
        config = MethodConfig.model_validate(
            {
                "name": "distill",
                "variant": "dynamic_alpha",
                "label_weight": 2.0,
                "alpha_schedule": {"start": 0.0, "from_epoch": 1, "slope": 0.5, "cap": 1.0},
            }
        )
        method = loss_of(config)
        assert isinstance(method, DistillLoss)
        assert method.tasks == ("label", "rationale")  # though the label weighs nothing at first
        seen = [(one.alpha, *one.weights.values()) for one in map(method.at, (0, 2, 9, 2, 0))]
        assert seen[:3] == [(0.0, 0.0, 1.0), (0.5, 1.0, 0.5), (1.0, 2.0, 0.0)]
        assert seen[3:] == [seen[1], seen[0]]  # nothing is remembered
        assert method.at(2).tasks == method.tasks

    def test_without_it_nothing_moves(self) -> None:
        method = loss_of(MethodConfig(name="distill", alpha=0.3))
        assert method.at(50.0) is method
        assert method.settings == {}
        standard = loss_of(MethodConfig(name="distill", mode="standard", alpha=0.3, label_weight=2.0))
        assert (
            standard.factors({"label": 4}) == loss_of(MethodConfig()).factors({"label": 4}) == {"label": 0.25}
        )


class TestTaskOutput:
    """Losses of rows are the same whether a forward gives logits row by row, target by target, or losses."""

    LABELS = torch.tensor([[IGNORED, 3, 1], [2, IGNORED, IGNORED], [IGNORED] * 3])

    def test_rows_are_added_up_apart(self) -> None:
        torch.manual_seed(0)
        logits, plain = torch.randn(3, 3, 5), TokenLoss()
        wanted = [
            -sum(
                float(torch.log_softmax(logits[row, at], dim=-1)[label])
                for at, label in enumerate(labels)
                if label != IGNORED
            )
            for row, labels in enumerate(self.LABELS.tolist())
        ]
        rows, places = (self.LABELS != IGNORED).nonzero(as_tuple=True)
        flat: dict[str, Any] = {"labels": self.LABELS[rows, places], "rows": rows}
        each = plain.each(logits, self.LABELS)[rows, places]
        for one in (
            TaskOutput(values=logits, labels=self.LABELS, row_count=3),
            TaskOutput(values=logits[rows, places], row_count=3, **flat),
            TaskOutput(values=each, row_count=3, is_loss=True, **flat),
        ):
            assert one.row_losses(plain).tolist() == pytest.approx(wanted, rel=1e-5)
            assert one.row_tokens().tolist() == [2, 1, 0]
            assert float(one.loss_sum(plain)) == pytest.approx(sum(wanted), rel=1e-5)
