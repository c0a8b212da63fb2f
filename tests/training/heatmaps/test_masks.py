"""Masks come into the frame of the model's input by the way of their pictures, or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.predicting.predictor import Predictor
from tests.support.evaluated import predictor_of
from training.data.draw import draw_dataset
from training.data.samples import DataError, Sample, read_samples
from training.heatmaps.measure import open_picture, read_mask


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    """As the service has it."""
    return predictor_of(tiny_bundle)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A drawn picture with its mask."""
    data = tmp_path_factory.mktemp("drawn") / "data"
    draw_dataset(data, 4, seed=1)
    return read_samples(data)[0]


@pytest.mark.parametrize("size", [(64, 64), (150, 90), (70, 200), (333, 251)])
def test_a_mask_goes_the_way_of_its_picture(size: tuple[int, int], predictor: Predictor, tmp_path: Path) -> None:
    """A picture that is white where its mask is and black elsewhere shows where each of the mask's pixels lands."""
    x, y = np.meshgrid(*(np.arange(side) for side in size))
    inside = np.hypot(x - 0.45 * size[0], y - 0.6 * size[1]) < 0.3 * min(size)
    mask = tmp_path / "mask.png"
    Image.fromarray(inside).save(mask)
    Image.fromarray(inside).convert("RGB").save(tmp_path / "picture.png")
    upload = predictor.open((tmp_path / "picture.png").read_bytes())
    found, seen = read_mask(mask, upload), upload.image[..., 0].astype(float)
    clear = np.abs(seen - 127.5) > 60  # at the edge, a pixel is partly inside, and filters differ
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], seen[clear] > 127.5)
    assert 0.1 < found.mean() < 0.5


def test_a_mask_of_the_models_size_is_taken_as_it_is(predictor: Predictor, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((64, 64)) < 0.3
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    upload = predictor.open((tmp_path / "picture.png").read_bytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", upload), mask)


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (Image.new("1", (224, 100), 1), r"mask\.png is 224 × 100 px, but its picture 224 × 224: align them"),
        (Image.new("L", (224, 224), 1), r"mask\.png is empty: the inside must be white"),
        (None, r"mask\.png: .*no picture in a known format"),
    ],
)
def test_masks_that_cannot_be_used_are_named(
    mask: Image.Image | None, complaint: str, predictor: Predictor, sample: Sample, tmp_path: Path
) -> None:
    file = tmp_path / "mask.png"
    if mask is None:
        file.write_text("no picture")
    else:
        mask.save(file)
    with pytest.raises(DataError, match=complaint):
        open_picture(predictor, replace(sample, mask=file))


def test_a_mask_of_nearly_everything_does_not_count(predictor: Predictor, sample: Sample, tmp_path: Path) -> None:
    Image.new("1", (224, 224), 1).save(tmp_path / "mask.png")
    assert open_picture(predictor, replace(sample, mask=tmp_path / "mask.png")).mask is None
    assert open_picture(predictor, sample).mask is not None
