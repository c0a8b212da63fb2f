"""Variants of one recipe compared on the same pictures: figures over seeds, paired intervals, a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from app.models.cnnswin import Fusion
from training.metrics.classification import DecisionRule, Estimate, Metric, classification_metrics, paired_difference

REFERENCE: Fusion = "cross_attention"
METRICS = {"auroc": "AUROC", "accuracy": "accuracy", "nll": "NLL"}  # verdicts go by the first
MAX_PARAMETER_GAP = 0.05  # in the parameter count of two-branch variants
REPEATS, SEED = 1000, 0
MIN_GROUPS = 10  # of each class; of fewer a bootstrap's intervals are far too narrow, of one they have no width

Verdict = Literal["better", "worse", "no difference shown"]
Probabilities = Float[np.ndarray, "n k"]


@dataclass(frozen=True)
class LabelledPictures:
    """What is answered: the classes by number, and the lesion, patient or other source of each picture."""

    labels: Int[np.ndarray, " n"]
    groups: tuple[str, ...]

    @property
    def fewest_groups(self) -> int:
        """How many groups hold pictures of the rarest class."""
        groups = np.array(self.groups)
        return min(len(set(groups[self.labels == label])) for label in set(self.labels.tolist()))


@dataclass(frozen=True)
class Variant:
    """One fusion. `probabilities` `[seeds, n, k]` are its runs' answers."""

    fusion: Fusion
    dim: int
    parameters: int
    probabilities: Float[np.ndarray, "seeds n k"]

    def metrics(self, labels: Int[np.ndarray, " n"]) -> dict[str, list[float]]:
        """Each figure of each run, by name."""
        metric_of = classification_metrics(self.probabilities.shape[2], DecisionRule())
        return {name: [metric_of[name](run, labels) for run in self.probabilities] for name in METRICS}


@dataclass(frozen=True)
class Comparison:
    """cross_attention less `other`: the means over seeds with 95 % intervals, and the AUROC seed by seed."""

    other: Fusion
    differences: dict[str, Estimate]
    seeds: tuple[float, ...]
    fewest_groups: int

    @property
    def verdict(self) -> Verdict:
        """What is shown of cross_attention: the interval excludes 0, and every seed says the same."""
        interval = self.differences["auroc"]
        if self.fewest_groups < MIN_GROUPS:
            return "no difference shown"
        if interval.low > 0 and min(self.seeds) > 0:
            return "better"
        if interval.high < 0 and max(self.seeds) < 0:
            return "worse"
        return "no difference shown"

    def sentence(self) -> str:
        """The verdict and its reason."""
        interval = self.differences["auroc"]
        higher = f"higher with {sum(seed > 0 for seed in self.seeds)} of {len(self.seeds)} seeds"
        shown = f"AUROC {interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f}), {higher}"
        if self.verdict != "no difference shown":
            return f"{REFERENCE} is {self.verdict} than {self.other}: {shown}."
        if self.fewest_groups < MIN_GROUPS:
            reason = f"val has {self.fewest_groups} groups of a class, and an interval needs {MIN_GROUPS}"
        else:
            reason = "the interval contains 0" if interval.low <= 0 <= interval.high else "the seeds disagree"
        return f"{REFERENCE} and {self.other}: no difference shown, since {reason}: {shown}."


@dataclass(frozen=True)
class Ablation:
    """All variants' answers to the same pictures, and what they show."""

    recipe: str
    seeds: tuple[int, ...]
    pictures: LabelledPictures
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]

    def document(self) -> dict[str, Any]:
        """What `ablation.json` holds."""
        rows = {}
        for variant in self.variants:
            values = variant.metrics(self.pictures.labels)
            spread = {name: float(np.std(per_run, ddof=1)) for name, per_run in values.items()}
            mean = {name: float(np.mean(per_run)) for name, per_run in values.items()}
            row = {"dim": variant.dim, "parameters": variant.parameters, "mean": mean, "standard_deviation": spread}
            rows[variant.fusion] = row | {"runs": values}
        return {
            "recipe": self.recipe,
            "seeds": self.seeds,
            "val": {"pictures": len(self.pictures.labels), "groups": len(set(self.pictures.groups))},
            "bootstrap": {"repeats": REPEATS, "seed": SEED, "level": 0.95},
            "variants": rows,
            "comparisons": {c.other: asdict(c) | {"verdict": c.verdict} for c in self.comparisons},
        }

    def text(self) -> str:
        """The same for people, in Markdown."""
        document = self.document()
        heads = [f"# Ablation of {self.recipe}", "", _setting_text(document), ""]
        table = [f"| variant | parameters | {' | '.join(METRICS.values())} |", "| --- | ---: | ---: | ---: | ---: |"]
        for fusion, row in document["variants"].items():
            cells = [f"{row['mean'][name]:.3f} ± {row['standard_deviation'][name]:.3f}" for name in METRICS]
            table.append(f"| {fusion} | {row['parameters']:,} | {' | '.join(cells)} |")
        pairs = ["", f"| {REFERENCE} less | {' | '.join(METRICS.values())} |", "| --- | ---: | ---: | ---: |"]
        for comparison in self.comparisons:
            cells = [f"{e.value:+.3f} ({e.low:+.3f} to {e.high:+.3f})" for e in comparison.differences.values()]
            pairs.append(f"| {comparison.other} | {' | '.join(cells)} |")
        verdicts = [f"- {comparison.sentence()}" for comparison in self.comparisons]
        return "\n".join([*heads, *table, *pairs, "", _reading_text(len(self.seeds)), "", *verdicts])


def _setting_text(document: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, document["seeds"]))
    return (
        f"Val: {document['val']['pictures']} pictures of {document['val']['groups']} groups. Seeds {seeds}; the same "
        f"data, split, stages, budget and augmentation for all. Two-branch variants have {REFERENCE}'s parameter count "
        f"within {MAX_PARAMETER_GAP:.0%}; those of single branches are smaller. ± is the standard "
        "deviation over seeds; a lower NLL is better."
    )


def _reading_text(seeds: int) -> str:
    return (
        "In brackets: 95 % bootstrap intervals of the difference of means over seeds, both variants on the same "
        "resampled groups of pictures. They cover which pictures val happens to hold, and neither chance in training "
        "nor the number of comparisons. Chance in training shows in ± and in whether the seeds agree; without any true "
        f"difference {seeds} seeds agree once in {2 ** (seeds - 1)}. A verdict goes by the AUROC: better or worse only "
        f"where the interval excludes 0, all seeds have its sign, and each class has {MIN_GROUPS} groups in val."
    )


def compare(variants: Sequence[Variant], pictures: LabelledPictures, repeats: int = REPEATS) -> tuple[Comparison, ...]:
    """cross_attention against every other variant, with intervals over groups of pictures (`paired_difference`)."""
    reference = next(variant for variant in variants if variant.fusion == REFERENCE)
    seeds, _, classes = reference.probabilities.shape
    metric_of = classification_metrics(classes, DecisionRule())
    seed_means = {name: _mean_over_seeds(metric_of[name], seeds) for name in METRICS}
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


def _mean_over_seeds(metric: Metric, seeds: int) -> Metric:
    """A figure of answers whose columns are those of all seeds side by side."""
    return lambda runs, labels: float(np.mean([metric(run, labels) for run in np.hsplit(runs, seeds)]))
