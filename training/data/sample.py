"""One labelled picture, what is known about a whole data set, and the error for data that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.errors import TrainingProblem

SPLITS = ("train", "val", "test", "calibration")  # the last is for the trust part alone

Kind = Literal[
    "left out", "label", "unreadable", "note", "serving", "group", "split", "duplicate", "near duplicate", "balance",
    "size", "colour", "mask",
]  # fmt: skip


class DataError(TrainingProblem, ValueError):
    """Data that cannot be used. The message says why and what to do."""


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Pictures of the same thing, such as one patient or one lesion, share a `group` and belong in the same split. `mask`
    is a picture that is white where the labelled thing is. `group`, `split` and `mask` are None if unknown. `columns`
    are the values in the table's other columns by their names in small letters, where there are any.
    """

    path: Path
    label: str
    group: str | None
    split: str | None
    mask: Path | None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Finding:
    """A problem to fix or to explain: its kind, a sentence, and the files that it concerns."""

    kind: Kind
    sentence: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """A data set as it lies on disk.

    `facts` say how it was understood, where that is not obvious, and need no action. `findings` say what was left out
    or is doubtful. `empty_classes` are folders of classes without a picture, which training refuses.
    """

    samples: tuple[Sample, ...]
    facts: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    empty_classes: tuple[Path, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The facts and the findings as sentences, for the output of a command."""
        return (*self.facts, *(f"{finding.kind}: {finding.sentence}" for finding in self.findings))
