"""One bundle against another on the same pictures, so that it can be decided whether to take the new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.bundles.manifest import Manifest
from app.bundles.reader import Bundle
from app.predicting.predictor import Predictor
from training.data.samples import DataError, Sample
from training.evaluation.answered import answer_all, decision_rule
from training.evaluation.metric_values import MetricValue, Pictures, difference_values
from training.metrics.classification import DecisionRule

LOWER_IS_BETTER = ("brier", "ece", "nll", "risk_coverage_area", "error_at_coverage_0.8")


@dataclass(frozen=True)
class Against:
    """Each metric of a bundle minus that of another, with paired bootstrap intervals."""

    manifest: Manifest
    sha256: str
    differences: Mapping[str, MetricValue]

    def verdict(self, name: str) -> str:
        """Whether the bundle is better or worse than the other in a metric: the interval must exclude 0."""
        difference = self.differences[name]
        if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
            return "no difference shown"
        return "better" if (difference.low > 0) is (name not in LOWER_IS_BETTER) else "worse"

    @property
    def name(self) -> str:
        """The other bundle's name and version."""
        return f"{self.manifest.name} {self.manifest.version}"

    def rows(self) -> list[tuple[str, str]]:
        """The metrics, each with the text of its difference, for tables."""
        return [(name, f"{_signed(value)}; {self.verdict(name)}") for name, value in self.differences.items()]

    def document(self) -> dict[str, Any]:
        """Return the entry of `evaluation.json`."""
        return {
            "bundle": {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.sha256},
            "differences": {
                name: value.document() | {"verdict": self.verdict(name)} for name, value in self.differences.items()
            },
        }


def _signed(value: MetricValue) -> str:
    if value.value is None:
        return value.value_text
    if value.low is None or value.high is None:
        return f"{value.value:+.3f}, {value.interval_text}"
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


def check_comparable(manifest: Manifest, other: Manifest) -> None:
    """Raises DataError if another bundle has other classes, or another positive class."""
    if {*other.classes} != {*manifest.classes}:
        raise DataError(
            f"--against: its classes are {', '.join(other.classes)}, but those of the bundle are "
            f"{', '.join(manifest.classes)}: only bundles of the same classes can be compared"
        )
    looked_for = [_positive(each) for each in (manifest, other)]
    if looked_for[0] != looked_for[1]:
        raise DataError(
            f"--against: it looks for {looked_for[1]}, but the bundle for {looked_for[0]}, so that their metrics are "
            "of different classes: export one of them with the other's positive class"
        )


def _positive(manifest: Manifest) -> str | None:
    rule = decision_rule(manifest)
    return None if rule.positive is None else manifest.classes[rule.positive]


def compared(
    pictures: Pictures,
    rule: DecisionRule,
    bundle: Bundle,
    predictor: Predictor,
    samples: Sequence[Sample],
    repeats: int,
    seed: int,
) -> Against:
    """Let another bundle answer the samples that `pictures` are of, and compare the metrics."""
    classes, own = pictures.classes, bundle.manifest.classes
    others = answer_all(predictor, samples).probabilities[:, [own.index(name) for name in classes]]
    of_others = replace(decision_rule(bundle.manifest), positive=rule.positive)
    differences = difference_values(pictures, rule, others, of_others, repeats, seed)
    return Against(bundle.manifest, bundle.sha256, differences)
