from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def corpora_folder(corpora: Path) -> Path:
    """The real corpora, under a name that the module `corpora` does not have."""
    return corpora
