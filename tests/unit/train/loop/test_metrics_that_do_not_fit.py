"""A metric that cannot read the references ends a run as wrong input, with the fix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from medray.config.eval import EvalConfig
from medray.errors import InputError
from medray.evaluate.metrics import Reference
from medray.train.loop.live_evaluation import text_metrics


def test_lists_are_asked_for_where_references_are_free_text() -> None:
    validation: Any = SimpleNamespace(
        rows=[(0, 0)],
        predictions=lambda *_, **__: [(0, '["fever"]')],
        reference=lambda number: Reference("secret"),
    )
    engine = SimpleNamespace(model=None, device=None, rank=0, world_size=1, gathers=False)
    with pytest.raises(InputError, match="ner_f1 needs a JSON list in every reference") as caught:
        text_metrics(validation, cast(Any, engine), None, EvalConfig(metrics=("ner_f1",)))
    assert (caught.value.key, "secret" in str(caught.value)) == ("eval.metrics", False)
    assert caught.value.fix
