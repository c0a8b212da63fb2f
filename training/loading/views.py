"""Data loading for training: the order of the pictures and their augmentation are pure functions of numbers.

Neither depends on the loading workers or on what was loaded before. A run that resumes in the middle of an epoch, or
that is spread over more processes, therefore sees the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from app.errors import FusionLensError
from app.pictures.bit_depth import Stretch
from app.pictures.decode import TargetSizes, decode
from app.pictures.prepare import prepare
from app.shapes import Bool, Int, UInt8
from training.data.limits import TRAINING_LIMITS
from training.data.samples import DataError, Sample
from training.loading.augment import TwoViews
from training.loading.draws import Draws

SampleKey = tuple[int, int, int]  # (epoch, position in the epoch, index of the sample)
_VIEWS = int.from_bytes(b"views")


class TrainingSet(Dataset[tuple[Tensor, Tensor, int]]):
    """Training pictures: each item is two augmented views and a label.

    The file is read each time. The augmentation depends only on the seed and the key. The key includes the position in
    the epoch, because draws with replacement can show a picture twice in an epoch, and its views should then differ.
    `size` is (height, width) in px, and `stretch` the rule for grey values.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[int],
        views: TwoViews,
        size: tuple[int, int],
        seed: int,
        stretch: Stretch,
    ) -> None:
        self.samples, self.labels, self.views, self.size, self.seed = samples, labels, views, size, seed
        self.stretch = stretch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"], int]:
        """Return the CNN's view, the Swin's view and the label.

        Raises DataError with the file's name if it cannot be read.
        """
        index = key[2]
        image = _read_picture(self.samples[index], self.size, self.stretch)
        cnn, swin = self.views(image, np.random.default_rng([_VIEWS, self.seed, *key]))
        return cnn, swin, self.labels[index]


class EvaluationSet(Dataset[Tensor]):
    """Pictures for evaluation, cropped and resized as the service does it.

    `size` is (height, width) in px, and `stretch` the rule for grey values.
    """

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], stretch: Stretch) -> None:
        self.samples, self.size, self.stretch = samples, size, stretch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Return one picture. Raises DataError with the file's name if it cannot be read."""
        return _read_picture(self.samples[index], self.size, self.stretch).contiguous()


class EpochBatches(Sampler[list[SampleKey]]):
    """Batch sampler: the keys that one process loads in an epoch, in batches for one forward pass each.

    An update takes `batch_size` consecutive positions of `draws.order` and splits them into `world_size * accumulate`
    equal parts. Rank r takes the `accumulate` parts from `r * accumulate` on. Pictures at the end of an epoch that do
    not fill an update are left out. The size of a part is always even, because MixUp and CutMix mix pictures in pairs.

    Raises ValueError for a batch size that cannot be split like this, and for fewer pictures than one batch.
    """

    def __init__(
        self,
        labels: Sequence[int],
        draws: Draws,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        parts = world_size * accumulate
        if batch_size % (2 * parts):
            raise ValueError(
                f"batch_size {batch_size} cannot be split into {parts} equal parts ({world_size} processes × "
                f"accumulate {accumulate}) of even size, which mixing in pairs needs: choose a multiple of {2 * parts}"
            )
        if draws.epoch_pictures < batch_size:
            raise ValueError(f"an epoch of {draws.epoch_pictures} pictures is less than one batch of {batch_size}")
        self.labels, self.draws, self.batch_size = labels, draws, batch_size
        self.accumulate, self._part_size, self._first = accumulate, batch_size // parts, rank * accumulate
        self.updates = draws.epoch_pictures // batch_size
        self.start(0, 0)

    def start(self, epoch: int, update: int) -> None:
        """Let the next iteration begin at this update of the epoch; both are counted from 0."""
        self.epoch, self.update = epoch, update
        self._order = self.draws.order(epoch)

    def __len__(self) -> int:
        return (self.updates - self.update) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = self.epoch, self._order
        for update in range(self.update, self.updates):
            for part in range(self.accumulate):
                yield self._keys(epoch, order, update, part)

    def keys(self, update: int, part: int) -> list[SampleKey]:
        """Return the keys of one of this process's parts of an update, both counted from 0 in the current epoch."""
        return self._keys(self.epoch, self._order, update, part)

    def _keys(self, epoch: int, order: Int[np.ndarray, " n"], update: int, part: int) -> list[SampleKey]:
        begin = update * self.batch_size + (self._first + part) * self._part_size
        return [(epoch, position, int(order[position])) for position in range(begin, begin + self._part_size)]

    def shown(self, epochs: int) -> Bool[np.ndarray, " n"]:
        """Return which of the samples the first `epochs` epochs show, whatever process loads them."""
        shown = np.zeros(len(self.labels), bool)
        for epoch in range(epochs):
            shown[self.draws.order(epoch)[: self.updates * self.batch_size]] = True
        return shown

    def labels_of_update(self, epoch: int, update: int) -> list[int]:
        """Return the labels of an update's whole batch, that of all processes together.

        With them, each process can normalise its loss by the class weights of the whole batch without communication.
        """
        order = self._order if epoch == self.epoch else self.draws.order(epoch)
        return [self.labels[index] for index in order[update * self.batch_size : (update + 1) * self.batch_size]]


def _read_picture(sample: Sample, size: tuple[int, int], stretch: Stretch) -> UInt8[Tensor, "3 h w"]:
    try:
        picture = decode(sample.path.read_bytes(), TRAINING_LIMITS, TargetSizes(size), stretch)
    except (OSError, FusionLensError) as error:
        raise DataError(f"{sample.path} cannot be read: {error}") from error
    return torch.from_numpy(prepare(picture, size).image).permute(2, 0, 1)
