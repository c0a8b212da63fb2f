"""What tests of evaluations share."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.draw import draw_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 drawn pictures, 12 of them in val."""
    data = tmp_path_factory.mktemp("drawn") / "data"
    draw_dataset(data, 48, seed=1)
    return data
