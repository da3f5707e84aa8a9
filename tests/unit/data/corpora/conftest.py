from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def corpora_folder(corpora: Path) -> Path:
    """Return the folder of the real corpora, under a name that differs from the module `corpora`."""
    return corpora
