"""The result of evaluating heatmaps, in three forms: a table for the terminal, a JSON document, an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.bundles.manifest import Manifest
from app.shapes import Float
from training.evaluation.pages import render
from training.heatmaps.measure import CENTRED_SIGMA_SHARE, MASK_SHARES, Variant
from training.heatmaps.metrics import METRICS, RANKED_METRICS, SCORE_DEFINITION
from training.metrics.classification import Estimate, described_intervals

TEMPLATE = Path(__file__).with_name("report.html")


class MetricResult(NamedTuple):
    """A metric of one variant over pictures, and its paired differences to the baselines, by their names."""

    estimate: Estimate
    differences: Mapping[str, Estimate]

    def verdict(self, higher_is_better: bool) -> str:
        """Return `better` than every baseline, `worse` than one, or an empty string if the intervals show neither."""
        sign = 1 if higher_is_better else -1
        bounds = [sorted((sign * difference.low, sign * difference.high)) for difference in self.differences.values()]
        if bounds and all(low > 0 for low, _ in bounds):
            return "better"
        return "worse" if any(high < 0 for _, high in bounds) else ""


Table = Mapping[Variant, Mapping[str, MetricResult]]
_MARKS = {"better": "*", "worse": "!", "": " "}


@dataclass(frozen=True)
class PictureRow:
    """One evaluated picture. `mask_share` is the mask's share of the model's input, or None without a mask."""

    path: str
    group: str
    label: str
    explained: str
    probability: float
    mask_share: float | None


class ShownPicture(NamedTuple):
    """A picture on the page: the model's input with the mask's outline, and each heatmap over it, all as JPEG."""

    row: PictureRow
    input_jpeg: bytes
    overlays: Mapping[Variant, bytes]


@dataclass(frozen=True, eq=False)
class HeatmapEvaluation:
    """The metrics of each variant's heatmaps.

    `values` are those of each picture, variant and metric of `METRICS`, with NaN for missing ones. `table` is of all
    pictures, and `class_tables` are of the pictures for which each class was explained. `shown` are the pictures on the
    page. `repeats` and `seed` are those of the bootstrap. `remarks` are sentences on how the data was read.
    """

    manifest: Manifest
    bundle_sha256: str
    data: str
    split: str | None
    rows: Sequence[PictureRow]
    variants: Sequence[Variant]
    values: Float[np.ndarray, "pictures variants metrics"]
    table: Table
    class_tables: Mapping[str, Table]
    shown: Sequence[ShownPicture]
    repeats: int
    seed: int
    versions: Mapping[str, str]
    remarks: tuple[str, ...] = ()

    @property
    def data_summary(self) -> str:
        """The data in words: its split, and the numbers of pictures and masks."""
        masks = sum(row.mask_share is not None for row in self.rows)
        source = self.data if self.split is None else f"{self.split} of {self.data}"
        least, most = (100 * share for share in MASK_SHARES)
        return f"{source}: {len(self.rows)} pictures, {masks} with a mask of {least:.0f} to {most:.0f} %"

    @property
    def chance(self) -> float | None:
        """The mean share of the masks in their pictures, which is the chance level of pointing and energy."""
        shares = [row.mask_share for row in self.rows if row.mask_share is not None]
        return float(np.mean(shares)) if shares else None

    @property
    def ranked(self) -> list[str]:
        """The metrics that ranks are over: those of `RANKED_METRICS` that the table has."""
        return _ranked_metrics(self.table)

    def ranks(self, table: Table) -> dict[Variant, float]:
        """Return each variant's mean rank over the ranked metrics. The best rank is 1; equal values share a rank."""
        ranks = []
        for name in _ranked_metrics(table):
            sign = -1 if METRICS[name].higher_is_better else 1
            signed = np.array([sign * results[name].estimate.value for results in table.values()])
            ranks.append(1 + (signed < signed[:, None]).sum(axis=1) + ((signed == signed[:, None]).sum(axis=1) - 1) / 2)
        return dict(zip(table, np.mean(ranks, axis=0).tolist(), strict=True))

    def text(self) -> str:
        """Format the table of all pictures for the terminal."""
        names, ranks = list(next(iter(self.table.values()))), self.ranks(self.table)
        arrows = {name: "up" if METRICS[name].higher_is_better else "down" for name in names}
        lines = [
            self.data_summary,
            *self.remarks,
            f"{'':24}" + "".join(f"{METRICS[name].title:>10}" for name in names) + f"{'rank':>7}",
            f"{'better':24}" + "".join(f"{arrows[name]:>10}" for name in names) + f"{'down':>7}",
        ]
        for variant, results in self.table.items():
            cells = [
                f"{result.estimate.value:9.3f}{_MARKS[result.verdict(METRICS[name].higher_is_better)]}"
                for name, result in results.items()
            ]
            lines.append(f"{variant.name:24}" + "".join(cells) + f"{ranks[variant]:7.1f}")
        lines.append("* better than the random map and the centred Gaussian, ! worse than one of them (95 % intervals)")
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Return the content of `explanations.json`. Lists of values are in the order of `pictures`."""
        return {
            "bundle": {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.bundle_sha256},
            "data": {"path": self.data, "split": self.split, "pictures": len(self.rows)},
            "remarks": list(self.remarks),
            "score": SCORE_DEFINITION,
            "figures": {name: metric._asdict() for name, metric in METRICS.items()},
            "ranked": self.ranked,
            "chance_inside_mask": self.chance,
            "baselines": {
                "random map": "normal, on the model's grid",
                "centred Gaussian": f"{CENTRED_SIGMA_SHARE:g} of each side",
            },
            "interval": described_intervals(self.repeats, self.seed),
            "table": self._table(self.table),
            "class_tables": {label: self._table(table) for label, table in self.class_tables.items()},
            "versions": dict(self.versions),
            "pictures": [asdict(row) for row in self.rows],
            "values": {
                variant.name: {
                    name: [None if np.isnan(value) else round(value, 6) for value in self.values[:, v, f].tolist()]
                    for f, name in enumerate(METRICS)
                }
                for v, variant in enumerate(self.variants)
            },
        }

    def _table(self, table: Table) -> list[dict[str, Any]]:
        ranks = self.ranks(table)
        return [
            {"method": variant.method, "branch": variant.branch, "fuse": variant.merge_rule}
            | {"mean_rank": ranks[variant]}
            | {
                name: asdict(result.estimate)
                | {"less": {other: asdict(difference) for other, difference in result.differences.items()}}
                for name, result in results.items()
            }
            for variant, results in table.items()
        ]


def _ranked_metrics(table: Table) -> list[str]:
    return [name for name in RANKED_METRICS if name in next(iter(table.values()))]


def as_html(evaluation: HeatmapEvaluation) -> str:
    """Render the self-contained page `explanations.html`."""
    return render(TEMPLATE, evaluation=evaluation, metrics=METRICS, score=SCORE_DEFINITION, mask_shares=MASK_SHARES)
