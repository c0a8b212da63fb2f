"""Pictures that cannot be read: what takes their places depends on the place and on the files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.drawn import draws
from training.data.samples import DataError, Sample
from training.loading.augment import TwoViews
from training.loading.unreadable import MarkingSet, ReplacingSet
from training.loading.views import EpochBatches, TrainingSet
from training.recipe.config import Augmentation, Geometry, Photometry

SIZE, COUNT = (8, 8), 12
STILL = Photometry(brightness=0, contrast=0, saturation=0, hue=0)
PLAIN = Augmentation(
    geometry=Geometry(flip=False, rotation_degrees=0, translate=0, scale=(1, 1)), cnn=STILL, swin=STILL
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Pictures of one grey each, 10 times their number. A third is of class 1."""
    folder = tmp_path_factory.mktemp("grey")
    made = []
    for number in range(COUNT):
        path = folder / f"{number:02d}.png"
        Image.fromarray(np.full((*SIZE, 3), 10 * number, np.uint8)).save(path)
        made.append(Sample(path, str(int(number % 3 == 0)), None, "train", None))
    return made


def replacing(samples: list[Sample], broken: set[int], allowed: int, balanced: bool = False) -> ReplacingSet:
    """The pictures, of which some have no file."""
    listed = [
        Sample(sample.path.with_suffix(".gone"), *(sample.label, None, "train", None)) if number in broken else sample
        for number, sample in enumerate(samples)
    ]
    labels = [int(sample.label) for sample in samples]
    return ReplacingSet(
        TrainingSet(listed, labels, TwoViews(PLAIN, SIZE), SIZE, 7, None), draws(labels, 7, balanced), allowed
    )


@settings(max_examples=8)
@example(broken={3, 6, 9}, epoch=0, balanced=True)
@example(broken={0, 3, 9}, epoch=1, balanced=True)
@given(broken=st.sets(st.integers(0, COUNT - 1), max_size=5), epoch=st.integers(0, 3), balanced=st.booleans())
def test_each_is_replaced_by_a_readable_one_of_its_class_and_the_others_stay(
    samples: list[Sample], broken: set[int], epoch: int, balanced: bool
) -> None:
    labels = [int(sample.label) for sample in samples]
    if any(broken >= {n for n in range(COUNT) if labels[n] == label} for label in (0, 1)):
        return  # a class without a readable picture, below
    pictures = replacing(samples, broken, len(broken), balanced)
    batches = EpochBatches(labels, draws(labels, 7, balanced), 4)
    batches.start(epoch, 0)
    for key in (key for batch in batches for key in batch):
        cnn, swin, label, reason = pictures[key]
        shown = int(cnn[0, 0, 0]) // 10
        assert torch.equal(cnn, swin) and label == labels[key[2]] == labels[shown]
        assert shown not in broken and (shown == key[2]) == (key[2] not in broken)
        assert (f"{key[2]:02d}.gone cannot be read" in reason) == (key[2] in broken)
        assert torch.equal(cnn, replacing(samples, broken, 9, balanced)[key][0])  # the same in another process


def test_none_is_replaced_unless_that_was_allowed_and_never_more_than_that(samples: list[Sample]) -> None:
    of_class = {number for number in range(COUNT) if number % 3 == 0}
    for broken, allowed in (({3}, 0), (of_class, 2), (of_class, 9)):
        with pytest.raises(DataError, match=r"03\.gone cannot be read"):
            replacing(samples, broken, allowed)[0, 0, 3]


def test_keys_of_a_part_are_those_that_the_sampler_yields() -> None:
    labels = [0] * 21
    for rank in (0, 1):
        batches = EpochBatches(labels, draws(labels, 3), 8, rank, 2, 2)
        batches.start(2, 1)
        parts = [batches.keys(update, part) for update in range(1, batches.updates) for part in range(2)]
        assert parts == list(batches)


def test_for_evaluation_a_black_picture_and_the_reason_stand_for_it(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    pictures = MarkingSet([samples[5], Sample(tmp_path / "a.png", "0", None, "val", None)], SIZE, None)
    image, reason = pictures[0]
    assert reason == "" and int(image.max()) == 50
    image, reason = pictures[1]
    assert "a.png cannot be read" in reason and not image.any()
