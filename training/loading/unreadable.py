"""Pictures that cannot be read during training: replaced by others in train, left out in val, and always told.

What replaces a picture depends on its place in the run and on which files can be read, so a run that is resumed repeats
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from app.pictures.bit_depth import Stretch
from app.shapes import UInt8
from training.data.samples import DataError, Sample
from training.loading.draws import Draws
from training.loading.views import EvaluationSet, SampleKey, TrainingSet


class ReplacingSet(Dataset[tuple[Tensor, Tensor, int, str]]):
    """Training pictures of which up to `allowed` unreadable ones are replaced.

    A picture is replaced by the next one of its kind (see `Draws`) in the order of the epoch or, where that has drawn
    no other one, in the order of the samples, so that the balance and the weights of the loss stay as they are. An item
    is that of `TrainingSet`, and the reason why the picture at the key cannot be read, which is empty if it can.
    """

    def __init__(self, pictures: TrainingSet, draws: Draws, allowed: int) -> None:
        self.pictures, self.draws, self.allowed = pictures, draws, allowed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: SampleKey) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"], int, str]:
        """Return both views, the label and the reason. Raises DataError if more than `allowed` cannot be read."""
        try:
            return (*self.pictures[key], "")
        except DataError as error:
            if not self.allowed:
                raise
            reason = str(error)
        epoch, position, index = key
        failed = {index}
        for other in self._next_of_kind(key):
            if other in failed:
                continue
            try:
                return (*self.pictures[epoch, position, other], reason)
            except DataError:
                failed.add(other)
                if len(failed) > self.allowed:
                    break
        raise DataError(reason)

    def _next_of_kind(self, key: SampleKey) -> Iterator[int]:
        epoch, position, index = key
        kinds, order = self.draws.kinds, self.draws.order(epoch)
        # Draws with replacement may have no other of the kind. The rest of it follows in the order of the samples.
        drawn = [int(order[(position + step) % len(order)]) for step in range(1, len(order))]
        rest = [(index + step) % len(kinds) for step in range(1, len(kinds))]
        yield from (other for other in (*drawn, *rest) if kinds[other] == kinds[index])


class MarkingSet(Dataset[tuple[Tensor, str]]):
    """Pictures for evaluation, each with the reason why it cannot be read, or an empty text.

    In place of an unreadable picture there is a black one, which the caller leaves out.
    """

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], stretch: Stretch) -> None:
        self.pictures, self.size = EvaluationSet(samples, size, stretch), size

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], str]:
        """Return one picture and the reason."""
        try:
            return self.pictures[index], ""
        except DataError as error:
            return torch.zeros(3, *self.size, dtype=torch.uint8), str(error)
