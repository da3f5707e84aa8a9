"""The cache of embeddings: what is computed once is not computed again, whatever was killed or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from medray.errors import InputError
from medray.icl.index.embeddings import count_missing, embedded
from medray.icl.index.encoder import EncoderSpec

SPEC = EncoderSpec(model="org/none", pooling="mean", prefix="", max_tokens=32, batch_size=4)
TEXTS = [f"text {number}" for number in range(7)]


def vectors(texts: Sequence[str], spec: EncoderSpec) -> np.ndarray:
    return np.asarray([[float(text.split()[1]), 1.0] for text in texts], dtype=np.float32)


def fail(texts: Sequence[str], spec: EncoderSpec) -> np.ndarray:
    raise AssertionError("embedded again")


def test_vectors_are_in_the_order_of_the_texts_and_computed_once(tmp_path: Path) -> None:
    asked = [*TEXTS, TEXTS[2]]
    found = embedded(asked, SPEC, tmp_path, embed_texts=vectors, part_texts=3)
    assert found.computed == 7
    assert found.vectors[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 2]
    again = embedded(TEXTS[::-1], SPEC, tmp_path, embed_texts=fail)
    assert again.vectors[:, 0].tolist() == [6, 5, 4, 3, 2, 1, 0]


def test_a_killed_run_keeps_its_finished_parts(tmp_path: Path) -> None:
    seen: list[int] = []

    def killed(texts: Sequence[str], spec: EncoderSpec) -> np.ndarray:
        if seen:
            raise KeyboardInterrupt
        seen.append(len(texts))
        return vectors(texts, spec)

    with pytest.raises(KeyboardInterrupt):
        embedded(TEXTS, SPEC, tmp_path, embed_texts=killed, part_texts=3)
    assert count_missing(TEXTS, SPEC, tmp_path) == 4
    assert embedded(TEXTS, SPEC, tmp_path, embed_texts=vectors).computed == 4


def test_another_encoder_has_another_cache(tmp_path: Path) -> None:
    embedded(TEXTS, SPEC, tmp_path, embed_texts=vectors)
    other = EncoderSpec(model="org/none", pooling="cls", prefix="", max_tokens=32, batch_size=9)
    assert count_missing(TEXTS, other, tmp_path) == 7
    assert SPEC.digest != other.digest


def test_a_model_folder_is_known_by_its_content(tmp_path: Path) -> None:
    def digest(name: str, content: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        spec = EncoderSpec(model=str(tmp_path / name), pooling="mean", prefix="", max_tokens=32, batch_size=4)
        return spec.digest

    assert digest("one", "{}") == digest("same", "{}")
    assert digest("other", "{ }") != digest("last", "{}")


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    embedded(TEXTS, SPEC, tmp_path, embed_texts=vectors)
    [part] = (tmp_path / SPEC.digest).glob("part-*")
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(InputError) as error:
        embedded(TEXTS, SPEC, tmp_path, embed_texts=fail)
    assert error.value.file == part
