"""What a training process loads: pictures in an order and with an augmentation that depend on numbers alone.

Nothing here remembers anything: not workers, not what was loaded before. A run that is taken up again in the middle
of an epoch, or spread over more processes, sees the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from app.errors import FusionLensError
from app.pictures.decode import Limits, TargetSizes, decode
from app.pictures.prepare import prepare
from training.data.samples import DataError, Sample
from training.loading.augment import TwoViews

SampleKey = tuple[int, int, int]  # epoch, position in the epoch, index of the sample
_ORDER, _VIEWS = int.from_bytes(b"order"), int.from_bytes(b"views")


class TrainingSet(Dataset[tuple[Tensor, Tensor, int]]):
    """Two augmented views of a picture, and its label. The file is read at each visit.

    What is drawn depends on the seed and the key alone. The position belongs to it so that a picture which balanced
    sampling draws twice in an epoch is not the same twice. `size` is (height, width) in px.
    """

    def __init__(
        self, samples: Sequence[Sample], labels: Sequence[int], views: TwoViews, size: tuple[int, int], seed: int
    ) -> None:
        self.samples, self.labels, self.views, self.size, self.seed = samples, labels, views, size, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"], int]:
        """The CNN's view, the Swin's, and the label. Raises DataError, naming the file, where it cannot be read."""
        index = key[2]
        image = _read_picture(self.samples[index], self.size)
        cnn, swin = self.views(image, np.random.default_rng([_VIEWS, self.seed, *key]))
        return cnn, swin, self.labels[index]


class EvaluationSet(Dataset[Tensor]):
    """Pictures as the service prepares them. `size` is (height, width) in px."""

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int]) -> None:
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Raises DataError, naming the file, where it cannot be read."""
        return _read_picture(self.samples[index], self.size).contiguous()


class EpochBatches(Sampler[list[SampleKey]]):
    """The keys that one process loads in an epoch, in batches that go through the model at once.

    An update has `batch_size` positions of `epoch_order`, cut into `world * accumulate` equal parts; rank r takes
    the `accumulate` parts from `r * accumulate` on. The last pictures of an epoch, too few for an update, are left
    out. Parts must be even, whatever the recipe, because mixing takes pictures in pairs that must not be parted.

    Raises ValueError for a batch size that cannot be cut so, and for fewer pictures than one batch.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        seed: int,
        balanced: bool,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        parts = world_size * accumulate
        if batch_size % (2 * parts):
            raise ValueError(
                f"batch_size {batch_size} cannot be cut into {parts} equal parts ({world_size} processes × accumulate "
                f"{accumulate}) of an even number of pictures, which are mixed in pairs: "
                f"choose a multiple of {2 * parts}"
            )
        if len(labels) < batch_size:
            raise ValueError(f"{len(labels)} pictures to train on are fewer than one batch of {batch_size}")
        self.labels, self.batch_size, self.seed, self.balanced = labels, batch_size, seed, balanced
        self.accumulate, self._part_size, self._first = accumulate, batch_size // parts, rank * accumulate
        self.updates = len(labels) // batch_size
        self.start(0, 0)

    def start(self, epoch: int, update: int) -> None:
        """What the next iteration goes through: the epoch, from this update of it on."""
        self.epoch, self.update = epoch, update
        self._order = epoch_order(self.labels, epoch, self.seed, self.balanced)

    def __len__(self) -> int:
        return (self.updates - self.update) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = self.epoch, self._order
        for update in range(self.update, self.updates):
            for part in range(self._first, self._first + self.accumulate):
                begin = update * self.batch_size + part * self._part_size
                yield [(epoch, position, int(order[position])) for position in range(begin, begin + self._part_size)]

    def labels_of_update(self, epoch: int, update: int) -> list[int]:
        """The labels of an update's `batch_size` positions, those of all processes.

        Each process can so divide its loss by the weights of the whole batch without asking the others.
        """
        order = self._order if epoch == self.epoch else epoch_order(self.labels, epoch, self.seed, self.balanced)
        return [self.labels[index] for index in order[update * self.batch_size : (update + 1) * self.batch_size]]


def epoch_order(labels: Sequence[int], epoch: int, seed: int, balanced: bool) -> Int[np.ndarray, " n"]:
    """The order of an epoch: a permutation of all samples, or as many draws with every class equally likely."""
    rng = np.random.default_rng([_ORDER, seed, epoch])
    if not balanced:
        return rng.permutation(len(labels))
    _, class_of, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return rng.choice(len(labels), len(labels), p=1 / (len(counts) * counts[class_of]))


def _read_picture(sample: Sample, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    try:
        picture = decode(sample.path.read_bytes(), Limits(), TargetSizes(size))
    except (OSError, FusionLensError) as error:
        raise DataError(f"{sample.path} cannot be read: {error}") from error
    return torch.from_numpy(prepare(picture, size).image).permute(2, 0, 1)
