"""The keys of columns: what counts as given, what a fingerprint sees, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.config import read
from medray.config.columns import ColumnsConfig
from medray.config.data import DataConfig
from medray.errors import InputError


def test_a_resolved_config_means_what_the_written_one_meant() -> None:
    written = DataConfig.model_validate({"train": "x.jsonl", "columns": {"label": "note"}})
    resolved = DataConfig.model_validate(written.model_dump(mode="json"))
    assert resolved.columns.model_fields_set == written.columns.model_fields_set == {"label"}


def test_keys_that_are_not_set_leave_older_fingerprints_as_they_are() -> None:
    older = {
        "input": "dialogue",
        "label": "note",
        "rationale": None,
        "id": "id",
        "group": "group",
        "lang": "lang",
        "entities": "entities",
    }
    assert ColumnsConfig(input="dialogue", label="note", rationale=None).decisive() == older
    named = ColumnsConfig.model_validate(older | {"label_names": ["no", "yes"]})
    assert named.decisive() == older | {"label_names": {"0": "no", "1": "yes"}}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "input: '{question'",
            "data.columns.input = '{question': the template has a '{' without its partner",
        ),
        (
            r"input: '{question}\nA) {opa}'",
            "the template contains a backslash and an n, which is not a line end",
        ),
        ("rationale: '{{}}'", "data.columns.rationale = '{{}}': the template contains no column"),
        ("input: []", "data.columns.input: expected at least one column"),
        ("label_names: {a: 1}", "data.columns.label_names.a = 1: expected text"),
        ("label_names: [a]\n    label_options: [b]", "label_names and label_options are both set"),
    ],
)
def test_what_cannot_name_a_text_is_refused(written: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"data:\n  train: a.jsonl\n  columns:\n    {written}\n")
    with pytest.raises(InputError) as caught:
        read(file)
    assert message in str(caught.value)
    assert caught.value.fix
