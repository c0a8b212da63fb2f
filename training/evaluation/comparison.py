"""Comparison of a recipe's variants on the same pictures: metrics over seeds, paired intervals, and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from app.models.cnnswin import Fusion
from app.shapes import Float, Int
from training.metrics.classification import DecisionRule, Estimate, Metric, classification_metrics, paired_difference

REFERENCE: Fusion = "cross_attention"
METRICS = {"auroc": "AUROC", "accuracy": "accuracy", "nll": "NLL"}  # verdicts depend on the AUROC
MAX_PARAMETER_GAP = 0.05  # relative difference of two-branch variants' parameter counts
REPEATS, SEED = 1000, 0
MIN_GROUPS = 10  # per class; with fewer groups, bootstrap intervals are far too narrow

HOW_TO_READ = (
    "The number after ± is the standard deviation over seeds, and a lower NLL is better. The parameter counts of "
    f"two-branch variants are within {MAX_PARAMETER_GAP:.0%} of that of {REFERENCE}; those of single branches are "
    "smaller. The brackets hold 95 % bootstrap intervals of the difference of the means over seeds, with both variants "
    "on the same resampled groups of pictures. They cover the choice of val's pictures, but neither the randomness of "
    "training nor the number of comparisons. The randomness of training shows in the standard deviation and in "
    "whether the seeds agree. Without any true difference, two seeds agree every other time, and five once in 16. "
    "The verdict is about the AUROC. It is better or worse only if the interval excludes 0, if all seeds have the "
    f"same sign, and if each class has at least {MIN_GROUPS} groups in val."
)

Verdict = Literal["better", "worse", "no difference shown"]
Probabilities = Float[np.ndarray, "n k"]


@dataclass(frozen=True)
class LabelledPictures:
    """The class index of each picture, and its group: the lesion, patient or other source that it shows."""

    labels: Int[np.ndarray, " n"]
    groups: tuple[str, ...]

    @property
    def fewest_groups(self) -> int:
        """The number of groups with pictures of the class that has the fewest groups."""
        groups = np.array(self.groups)
        return min(len(set(groups[self.labels == label])) for label in set(self.labels.tolist()))


@dataclass(frozen=True)
class Variant:
    """One fusion with its parameter count, and the probabilities `[seeds, n, k]` that its runs answered."""

    fusion: str
    dim: int
    parameters: int
    probabilities: Float[np.ndarray, "seeds n k"]

    def metrics(self, labels: Int[np.ndarray, " n"]) -> dict[str, list[float]]:
        """Return each metric of each run, by name."""
        metric_of = classification_metrics(self.probabilities.shape[2], DecisionRule())
        return {name: [metric_of[name](run, labels) for run in self.probabilities] for name in METRICS}


@dataclass(frozen=True)
class Comparison:
    """Differences of cross_attention minus the variant `other`.

    `differences` are those of the means over seeds, with 95 % intervals. `seeds` are the differences in AUROC of each
    seed.
    """

    other: str
    differences: dict[str, Estimate]
    seeds: tuple[float, ...]
    fewest_groups: int

    @property
    def verdict(self) -> Verdict:
        """Whether cross_attention is better or worse: the interval must exclude 0, and all seeds must agree."""
        interval = self.differences["auroc"]
        if self.fewest_groups < MIN_GROUPS:
            return "no difference shown"
        if interval.low > 0 and min(self.seeds) > 0:
            return "better"
        if interval.high < 0 and max(self.seeds) < 0:
            return "worse"
        return "no difference shown"

    def sentence(self) -> str:
        """Return the verdict and its reason as a sentence."""
        interval = self.differences["auroc"]
        higher = f"higher with {sum(seed > 0 for seed in self.seeds)} of {len(self.seeds)} seeds"
        shown = f"AUROC {interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f}), {higher}"
        if self.verdict != "no difference shown":
            return f"{REFERENCE} is {self.verdict} than {self.other}: {shown}."
        if self.fewest_groups < MIN_GROUPS:
            reason = f"val has {self.fewest_groups} groups of a class, but a verdict needs {MIN_GROUPS}"
        else:
            reason = "the interval contains 0" if interval.low <= 0 <= interval.high else "the seeds disagree"
        return f"{REFERENCE} and {self.other}: no difference shown, because {reason}: {shown}."


@dataclass(frozen=True)
class Ablation:
    """The probabilities of all variants for the same pictures, and their comparisons.

    `trunk` is the name of the trained model whose trunk was fixed, if only heads were trained. `start` is that of the
    model whose backbones whole models started from, if any.
    """

    recipe: str
    seeds: tuple[int, ...]
    pictures: LabelledPictures
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    trunk: str | None = None
    start: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the content of `ablation.json`."""
        rows = {}
        for variant in self.variants:
            values = variant.metrics(self.pictures.labels)
            spread = {name: float(np.std(per_run, ddof=1)) for name, per_run in values.items()}
            mean = {name: float(np.mean(per_run)) for name, per_run in values.items()}
            row = {"dim": variant.dim, "parameters": variant.parameters, "mean": mean, "standard_deviation": spread}
            rows[variant.fusion] = row | {"runs": values}
        return {
            "recipe": self.recipe,
            "trunk": self.trunk,
            "start": self.start,
            "seeds": self.seeds,
            "val": {"pictures": len(self.pictures.labels), "groups": len(set(self.pictures.groups))},
            "bootstrap": {"repeats": REPEATS, "seed": SEED, "level": 0.95},
            "variants": rows,
            "comparisons": {c.other: asdict(c) | {"verdict": c.verdict} for c in self.comparisons},
        }

    def text(self) -> str:
        """Return the content of `ablation.md`."""
        return f"# Ablation of {self.recipe}\n\n{ablation_text(self.document())}\n\n{HOW_TO_READ}"


def ablation_text(document: dict[str, Any]) -> str:
    """Return tables and verdicts for the content of `ablation.json`. `HOW_TO_READ` says what they mean."""
    heads = [_setting_text(document), ""]
    table = [f"| variant | parameters | {' | '.join(METRICS.values())} |", "| --- | ---: | ---: | ---: | ---: |"]
    for fusion, row in document["variants"].items():
        cells = [f"{row['mean'][name]:.3f} ± {row['standard_deviation'][name]:.3f}" for name in METRICS]
        table.append(f"| {fusion} | {row['parameters']:,} | {' | '.join(cells)} |")
    pairs = ["", f"| {REFERENCE} minus | {' | '.join(METRICS.values())} |", "| --- | ---: | ---: | ---: |"]
    comparisons = [_comparison(row) for row in document["comparisons"].values()]
    for comparison in comparisons:
        cells = [f"{e.value:+.3f} ({e.low:+.3f} to {e.high:+.3f})" for e in comparison.differences.values()]
        pairs.append(f"| {comparison.other} | {' | '.join(cells)} |")
    verdicts = [f"- {comparison.sentence()}" for comparison in comparisons]
    return "\n".join([*heads, *table, *pairs, "", *verdicts])


def _comparison(row: dict[str, Any]) -> Comparison:
    differences = {name: Estimate(**estimate) for name, estimate in row["differences"].items()}
    return Comparison(row["other"], differences, tuple(row["seeds"]), row["fewest_groups"])


def _setting_text(document: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, document["seeds"]))
    same = "the same data, split, stages, budget and augmentation"
    if document["trunk"] is not None:
        same = (
            f"learn from the same maps, which the fixed trunk of {document['trunk']} makes of the pictures without "
            "augmentation. What this trunk learned with its own head may favour that head. All have the same budget"
        )
    elif document.get("start") is not None:  # documents of earlier versions have no such key
        same += (
            f". They start from the backbones of {document['start']}, each under a new head. What these backbones "
            "learned with their own head may favour that head"
        )
    return (
        f"Val has {document['val']['pictures']} pictures of {document['val']['groups']} groups. All variants have the "
        f"seeds {seeds} and {same}."
    )


def compare(variants: Sequence[Variant], pictures: LabelledPictures, repeats: int = REPEATS) -> tuple[Comparison, ...]:
    """Compare cross_attention with every other variant, with paired bootstrap intervals over groups."""
    reference = next(variant for variant in variants if variant.fusion == REFERENCE)
    seeds, _, classes = reference.probabilities.shape
    metric_of = classification_metrics(classes, DecisionRule())
    seed_means = {name: mean_over_seeds(metric_of[name], seeds) for name in METRICS}
    comparisons = []
    for other in variants:
        if other.fusion == REFERENCE:
            continue
        a, b = (np.hstack(list(variant.probabilities)) for variant in (reference, other))
        differences = {
            name: paired_difference(metric, a, b, pictures.labels, pictures.groups, repeats, SEED)
            for name, metric in seed_means.items()
        }
        seed_aurocs = zip(*(variant.metrics(pictures.labels)["auroc"] for variant in (reference, other)), strict=True)
        per_seed = tuple(reference_auroc - other_auroc for reference_auroc, other_auroc in seed_aurocs)
        comparisons.append(Comparison(other.fusion, differences, per_seed, pictures.fewest_groups))
    return tuple(comparisons)


def mean_over_seeds(metric: Metric, seeds: int) -> Metric:
    """Return the mean of a metric over seeds. Its probabilities have the columns of all seeds side by side."""
    return lambda runs, labels: float(np.mean([metric(run, labels) for run in np.hsplit(runs, seeds)]))
