"""Many texts are embedded by a Ray Data job with the vectors of the loop in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import WORDS, save_encoder

from medray.icl.index.embedding_job import embed_by_ray
from medray.icl.index.encoder import EncoderSpec, embed


@pytest.mark.usefixtures("connected")
def test_the_job_gives_the_vectors_of_the_loop(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    spec = EncoderSpec(model=str(folder), pooling="mean", prefix="", max_tokens=8, batch_size=16)
    texts = [" ".join(WORDS[2 + at % 5 : 4 + at % 7]) or "for" for at in range(700)]
    np.testing.assert_allclose(embed_by_ray(texts, spec), embed(texts, spec), atol=1e-5)
