"""Training and evaluation read pictures that are too large for the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.errors import PictureTooLarge
from app.pictures.decode import Limits, decode
from training.data.limits import TRAINING_LIMITS
from training.data.samples import Sample
from training.loading.views import EvaluationSet


def test_a_picture_that_is_too_large_for_the_service_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("1", (17_000, 1_600), 1).save(path)  # 27 million pixels, and a side that is too long
    with pytest.raises(PictureTooLarge):
        decode(path.read_bytes(), Limits())
    picture = EvaluationSet([Sample(path, "cat", None, None, None)], (8, 8), None)[0]
    assert picture.shape == (3, 8, 8) and picture.min() == 255


def test_the_limits_of_training_are_those_of_pillow() -> None:
    TRAINING_LIMITS.check("picture", 13_000, 13_000)
    TRAINING_LIMITS.check("picture", 60_000, 1_500)
    with pytest.raises(PictureTooLarge):
        TRAINING_LIMITS.check("picture", 14_000, 14_000)
