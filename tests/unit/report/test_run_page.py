"""The report is one self-contained file that shows the numbers and the texts that it was given, and no others."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from html_page import Page

from medray.report.curves import _loss_series, pair_charts
from medray.report.run_page import write_report
from medray.report.svg import Series, line_chart, ticks

SUMMARY: dict[str, Any] = {
    "status": "done", "steps": 80, "tokens": 81920, "world_size": 2, "train_loss_first": 3.25, "train_loss_last": 0.75,
    "eval": {"before": {"rougeL": 0.125, "loss": 3.0}, "after": {"rougeL": 0.5, "loss": 1.0}},
    "tokens_per_second": 4321.4, "seconds": {"setup": 4.0, "train": 60.0, "total": 80.0}, "versions": {"ray": "2.60.0"},
}  # fmt: skip
SAMPLE = {
    "prompt": "<script>alert(1)</script>",
    "reference": "a & b",
    "prediction": "</p><img src=x onerror=alert(2)>",
}


def step(n: int) -> dict[str, Any]:
    return {"step": n, "loss": 3 / n, "loss/label": 2 / n, "loss/rationale": 4 / n, "lr": 1e-4, "grad_norm": 1.0, "tokens": 10,
            "seconds": 0.1}  # fmt: skip


def written(tmp_path: Path, **changes: Any) -> str:
    values: dict[str, Any] = {
        "summary": SUMMARY,
        "config_yaml": "model:\n  name: t5-tiny\nmethod:\n  name: distill\n",
        "steps": [step(n) for n in range(1, 81)],
        "evaluations": [{"step": s, "metrics": {"loss": 2.0, "rougeL": 0.2}} for s in (0, 40, 80)],
        "data_table": [("rows", "200 <b>")],
        "lengths": {"label": {"p50": 12, "p90": 20, "p99": 30, "max": 41, "truncated": 3}},
        "samples": None,
    }
    path = tmp_path / "my-run" / "report.html"
    path.parent.mkdir(exist_ok=True)
    write_report(path, **(values | changes))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


@pytest.mark.parametrize("samples", [None, [SAMPLE]])
def test_the_page_is_one_file_without_scripts_or_links(tmp_path: Path, samples: list[Any] | None) -> None:
    html = written(tmp_path, samples=samples)
    page = Page(html)
    assert page.open == []
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    assert not {"script", "link", "img", "iframe", "object", "a", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {"src", "href", "xlink:href", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag


def test_the_policy_allows_the_pages_own_style_alone(tmp_path: Path) -> None:
    html = written(tmp_path)
    style = html.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_text_of_samples_is_escaped(tmp_path: Path) -> None:
    html = written(tmp_path, samples=[SAMPLE])
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    text = Page(html).text
    assert all(value in text for value in SAMPLE.values())


def test_keys_of_a_rationale_share_one_curve() -> None:
    keys = {f"loss/rationale/{name}": 2.0 for name in ("Age", "Sex")}
    steps = [{"step": 1, "loss": 1.0, "loss/label": 1.0, "loss/rationale": 2.0, **keys}]
    assert [series.name for series in _loss_series(steps, [])] == ["all tasks", "label", "rationale"]


def test_pairs_have_charts_of_their_own() -> None:
    pairs = {"reward_chosen": 0.1, "reward_rejected": -0.2, "reward_margin": 0.3, "preference_accuracy": 0.75}
    steps = [{"step": step, "loss": 0.6, **pairs} for step in (1, 2)]
    html = pair_charts(steps, [{"step": 2, "metrics": pairs}])
    assert [title in html for title in ("Reward", "Share of pairs", "against the reference")] == [
        True,
        True,
        False,
    ]
    assert pair_charts([{"step": 1, "loss": 0.6}], []) == ""


def test_every_other_value_is_escaped_too(tmp_path: Path) -> None:
    bad = "</style><script>x</script>\"'"
    one = {"step": 1, "loss": 1.0, f"loss/{bad}": 1.0, "loss/b": 1.0}
    html = written(
        tmp_path,
        summary={
            "status": bad,
            "eval": {bad: 1.0},
            "versions": {bad: bad},
            "seconds": {bad: 1.0},
            "name": bad,
            "reason": bad,
        },
        config_yaml=f"model:\n  name: {bad}\n",
        steps=[one],
        data_table=[(bad, bad)],
        lengths={bad: {"p50": 1, "max": 2}},
    )
    assert "<script" not in html
    assert Page(html).open == []


def test_samples_are_shown_only_if_given(tmp_path: Path) -> None:
    assert "Predictions and references" not in written(tmp_path, samples=None)
    assert "Predictions and references" in written(tmp_path, samples=[SAMPLE])


def test_it_shows_the_numbers(tmp_path: Path) -> None:
    page = Page(written(tmp_path))
    for shown in ("my-run", "done", "t5-tiny · distill · 2 workers", "3.25 →", "0.75", "0.125 →", "0.5", "+0.375", "−2", "4,321",
                  "1 min 20 s", "2.60.0", "200 <b>", "41", "Resolved config"):  # fmt: skip
        assert shown in page.text, shown
    classes = [attributes.get("class") for _, attributes in page.tags]
    assert {"line s0", "line s1", "line s2"} <= set(classes), "a line for the loss and each of two tasks"
    assert classes.count("dot s0") == 3, "a mark for each validation loss"


@pytest.mark.parametrize(
    "summary", [{}, {"status": "failed", "eval": None, "seconds": None}, {"eval": {"rougeL": 0.3}}]
)
def test_missing_values_are_left_out(tmp_path: Path, summary: dict[str, Any]) -> None:
    html = written(
        tmp_path, summary=summary, config_yaml="", steps=[], evaluations=[], data_table=[], lengths={}
    )
    assert Page(html).open == []
    assert "<h2>Loss</h2>" not in html
    assert ("0.3" in Page(html).text) == ("rougeL" in str(summary))


def test_losses_that_are_not_finite_leave_a_readable_chart(tmp_path: Path) -> None:
    steps = [step(1), {**step(2), "loss": float("nan")}, {**step(3), "loss": float("inf"), "seconds": 0}]
    html = written(tmp_path, steps=steps)
    assert not re.search(r"points=\"[^\"]*(nan|inf)", html)
    assert Page(html).open == []


def test_chart_maps_ends_of_the_data_to_ends_of_the_axes() -> None:
    chart = line_chart([Series(name="loss", points=[(0, 0.0), (10, 4.0)])], width=200, height=100)
    points = re.search(r'points="([^"]*)"', chart)
    assert points is not None
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points[1].split())
    assert (y0, y1) == (74.0, 10.0)
    assert x1 == 190.0
    assert 10 < x0 < 40


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    chart = line_chart(
        [Series(name="loss", points=[(n, float(n % 2)) for n in range(1, 100_001)])], width=200, height=100
    )
    assert len(chart) < 40_000
    assert "190.0," in chart


def test_ticks_are_round_and_span_the_data() -> None:
    assert ticks(0.3, 3.4, 5) == [0, 1, 2, 3, 4]
    assert ticks(5, 5, 4)[0] <= 4.5
    assert ticks(0, 0, 4)[-1] > 0
    assert ticks(1e-6, 3e-4, 3) == pytest.approx([0, 1e-4, 2e-4, 3e-4])


def test_warnings_come_first_and_change_the_status(tmp_path: Path) -> None:
    found = SUMMARY | {"warnings": [{"name": "zero_gradients", "text": "the gradient is <exactly> 0"}]}
    text = Page(written(tmp_path, summary=found)).text
    order = ("done, with 1 warning", "the gradient is <exactly> 0", "training loss")
    assert sorted(order, key=text.index) == list(order)
    assert "Check the model" not in written(tmp_path)
