"""Labelled pictures on disk: a CSV beside them says what each is and on which side of the split it stands."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from training.augment import TwoViews


class DataError(ValueError):
    """Training data that cannot be used, and why."""


@dataclass(frozen=True)
class Sample:
    """One labelled picture."""

    path: Path
    label: str
    split: str
    mask: Path | None


def read_samples(root: Path, split: str) -> list[Sample]:
    """The rows of `root/labels.csv` (`path,label,split[,mask]`) of one split. Raises DataError."""
    table = root / "labels.csv"
    if not table.is_file():
        raise DataError(f"{root} has no labels.csv (columns path,label,split[,mask])")
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    if not rows:
        raise DataError(f"{table} has no rows with split={split}")
    samples = [
        Sample(root / row["path"], row["label"], split, root / row["mask"] if row.get("mask") else None) for row in rows
    ]
    if missing := [sample.path for sample in samples if not sample.path.is_file()]:
        raise DataError(f"{len(missing)} pictures of {table} are missing, the first is {missing[0]}")
    return samples


class TrainingSet(Dataset[tuple[Tensor, Tensor, int]]):
    """Pictures prepared once and kept, augmented anew at every visit.

    What is drawn depends on (seed, epoch, index) alone: not on workers, not on the order of visits.
    """

    def __init__(self, images: UInt8[np.ndarray, "n h w 3"], labels: list[int], views: TwoViews, seed: int) -> None:
        self.images, self.labels, self.views, self.seed, self.epoch = images, labels, views, seed, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, self.epoch, index)) % 2**63)
            cnn_view, swin_view = self.views(image)
        return cnn_view, swin_view, self.labels[index]
