"""What a bundle's trust part says of labelled pictures, and how often it is right: sets, referrals and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from app.shapes import Bool, Int
from app.trust.assessment import Assessment


@dataclass(frozen=True)
class Count:
    """A number of pictures among others, and the 95 % interval of their share (Clopper & Pearson 1934).

    The interval takes the pictures for independent: where a group has several, the share is less certain than it says.
    """

    count: int
    pictures: int

    @property
    def share(self) -> float | None:
        """The share, or None of no pictures."""
        return self.count / self.pictures if self.pictures else None

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the interval, from 0 to 1 of no pictures."""
        if not self.pictures:
            return 0.0, 1.0
        low, high = binomtest(self.count, self.pictures).proportion_ci(method="exact")
        return float(low), float(high)

    @property
    def text(self) -> str:
        """The share with its interval and the numbers that it is of."""
        if self.share is None:
            return "of no pictures"
        low, high = self.interval
        return f"{self.share:.3f} ({low:.3f} to {high:.3f}), {self.count:,} of {self.pictures:,}"

    def document(self) -> dict[str, Any]:
        """Return the figure for a JSON document."""
        low, high = self.interval
        return asdict(self) | {"share": self.share, "low": low, "high": high}


@dataclass(frozen=True)
class Reliance:
    """How often prediction sets hold the label, how many answers are referred, and how often answers are wrong.

    `coverage` is the promised one, and `covered` the pictures of each class whose set holds it. `reasons` counts the
    pictures by the code of each reason.
    """

    coverage: float
    covered: Mapping[str, Count]
    mean_classes: float
    referred: Count
    reasons: Mapping[str, int]
    wrong: Mapping[str, Count]  # among all answers, those that are answered, and those that are referred

    def rows(self) -> list[tuple[str, str]]:
        """Names and texts of the figures, for tables."""
        return [
            *((f"coverage of {name}, promised {self.coverage:g}", count.text) for name, count in self.covered.items()),
            ("classes in a set, mean", f"{self.mean_classes:.2f}"),
            ("referred to a person", self.referred.text),
            *((f"reason {reason}", f"{count:,}") for reason, count in self.reasons.items()),
            *((f"wrong among {name}", count.text) for name, count in self.wrong.items()),
        ]

    def document(self) -> dict[str, Any]:
        """Return the entry of `evaluation.json`."""
        return {
            "coverage": self.coverage,
            "covered": {name: count.document() for name, count in self.covered.items()},
            "mean_classes": self.mean_classes,
            "referred": self.referred.document(),
            "reasons": dict(self.reasons),
            "wrong": {name: count.document() for name, count in self.wrong.items()},
        }


def reliance(
    assessments: Sequence[Assessment],
    classes: Sequence[str],
    labels: Int[np.ndarray, " n"],
    wrong: Bool[np.ndarray, " n"],
) -> Reliance | None:
    """Return the figures of pictures with these assessments and labels, or None without assessments.

    `wrong` says which answers are not the label.
    """
    if not assessments:
        return None
    holds = np.array([classes[label] in one.prediction_set for one, label in zip(assessments, labels, strict=True)])
    referred = np.array([one.decision == "refer" for one in assessments])

    def count(of: Bool[np.ndarray, " n"], among: Bool[np.ndarray, " n"]) -> Count:
        return Count(int((of & among).sum()), int(among.sum()))

    everything = np.ones(len(labels), bool)
    reasons = Counter(reason.code for one in assessments for reason in one.reasons)
    return Reliance(
        assessments[0].coverage,
        {name: count(holds, labels == index) for index, name in enumerate(classes)},
        float(np.mean([len(one.prediction_set) for one in assessments])),
        count(referred, everything),
        dict(sorted(reasons.items(), key=lambda item: -item[1])),
        {
            "all": count(wrong, everything),
            "answered": count(wrong, ~referred),
            "referred": count(wrong, referred),
        },
    )
