"""What was found about heatmaps, and how it is told: a table in the terminal, a JSON document, an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from app.bundles.manifest import Manifest
from training.evaluation.pages import render
from training.heatmaps.explain_figures import FIGURES, RANKED, SCORE
from training.heatmaps.explain_pictures import GAUSSIAN, MASK_SHARES, Variant
from training.metrics.classification import Estimate, described_intervals

TEMPLATE = Path(__file__).with_name("explain_report.html")


class Found(NamedTuple):
    """A figure of one variant over pictures, and its differences to the baselines, paired by picture."""

    estimate: Estimate
    less: Mapping[str, Estimate]

    def verdict(self, higher_is_better: bool) -> str:
        """`better` than every baseline, `worse` than one, or nothing, by intervals without 0."""
        sign = 1 if higher_is_better else -1
        bounds = [sorted((sign * one.low, sign * one.high)) for one in self.less.values()]
        if bounds and all(low > 0 for low, _ in bounds):
            return "better"
        return "worse" if any(high < 0 for _, high in bounds) else ""


Table = Mapping[Variant, Mapping[str, Found]]
_MARKS = {"better": "*", "worse": "!", "": " "}


@dataclass(frozen=True)
class Row:
    """One picture that was measured. `mask_share` is of what the model sees, None where no mask was used."""

    path: str
    group: str
    label: str
    explained: str
    probability: float
    mask_share: float | None


class Shown(NamedTuple):
    """A picture of the page: what the model sees with the mask's outline, and each heatmap over it, as JPEG."""

    row: Row
    seen: bytes
    overlays: Mapping[Variant, bytes]


@dataclass(frozen=True, eq=False)
class ExplanationFigures:
    """How far each variant's heatmaps can be believed.

    `values` are those of every picture, variant and figure of `FIGURES`, not a number where there is none. `table` is
    of all pictures, `class_tables` of those for which each class was explained. `shown` are the page's pictures.
    """

    manifest: Manifest
    bundle_sha256: str
    data: str
    split: str | None
    rows: Sequence[Row]
    variants: Sequence[Variant]
    values: Float[np.ndarray, "pictures variants figures"]
    table: Table
    class_tables: Mapping[str, Table]
    shown: Sequence[Shown]
    repeats: int
    seed: int
    versions: Mapping[str, str]

    @property
    def basis(self) -> str:
        """What the figures rest on, in words."""
        masks = sum(row.mask_share is not None for row in self.rows)
        place = self.data if self.split is None else f"{self.split} of {self.data}"
        least, most = (100 * share for share in MASK_SHARES)
        return f"{place}: {len(self.rows)} pictures, {masks} with a mask of {least:.0f} to {most:.0f} %"

    @property
    def chance(self) -> float | None:
        """The mean share of the masks used: what pointing and energy are by chance."""
        shares = [row.mask_share for row in self.rows if row.mask_share is not None]
        return float(np.mean(shares)) if shares else None

    @property
    def ranked(self) -> list[str]:
        """The figures that ranks are taken over, as far as there are any pictures for them."""
        return _ranked(self.table)

    def ranks(self, table: Table) -> dict[Variant, float]:
        """Each variant's mean rank over the figures of `RANKED` that there are, 1 the best; equal ones share."""
        ranks = []
        for name in _ranked(table):
            sign = -1 if FIGURES[name].higher_is_better else 1
            worth = np.array([sign * found[name].estimate.value for found in table.values()])
            ranks.append(1 + (worth < worth[:, None]).sum(axis=1) + ((worth == worth[:, None]).sum(axis=1) - 1) / 2)
        return dict(zip(table, np.mean(ranks, axis=0).tolist(), strict=True))

    def text(self) -> str:
        """The table of all pictures."""
        names, ranks = list(next(iter(self.table.values()))), self.ranks(self.table)
        arrows = {name: "up" if FIGURES[name].higher_is_better else "down" for name in names}
        lines = [
            self.basis,
            f"{'':24}" + "".join(f"{FIGURES[name].title:>10}" for name in names) + f"{'rank':>7}",
            f"{'better':24}" + "".join(f"{arrows[name]:>10}" for name in names) + f"{'down':>7}",
        ]
        for variant, found in self.table.items():
            cells = [
                f"{one.estimate.value:9.3f}{_MARKS[one.verdict(FIGURES[name].higher_is_better)]}"
                for name, one in found.items()
            ]
            lines.append(f"{variant.name:24}" + "".join(cells) + f"{ranks[variant]:7.1f}")
        lines.append("* better than the random map and the centred Gaussian, ! worse than one of them (95 % intervals)")
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """All that was found, in types that JSON has; each picture's values in the order of `pictures`."""
        return {
            "bundle": {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.bundle_sha256},
            "data": {"path": self.data, "split": self.split, "pictures": len(self.rows)},
            "score": SCORE,
            "figures": {name: figure._asdict() for name, figure in FIGURES.items()},
            "ranked": self.ranked,
            "chance_inside_mask": self.chance,
            "baselines": {
                "random map": "normal, on the model's grid",
                "centred Gaussian": f"{GAUSSIAN:g} of each side",
            },
            "interval": described_intervals(self.repeats, self.seed),
            "table": self._table(self.table),
            "class_tables": {label: self._table(table) for label, table in self.class_tables.items()},
            "versions": dict(self.versions),
            "pictures": [asdict(row) for row in self.rows],
            "values": {
                variant.name: {
                    name: [None if np.isnan(value) else round(value, 6) for value in self.values[:, v, f].tolist()]
                    for f, name in enumerate(FIGURES)
                }
                for v, variant in enumerate(self.variants)
            },
        }

    def _table(self, table: Table) -> list[dict[str, Any]]:
        ranks = self.ranks(table)
        return [
            asdict(variant)
            | {"mean_rank": ranks[variant]}
            | {
                name: asdict(one.estimate) | {"less": {other: asdict(less) for other, less in one.less.items()}}
                for name, one in found.items()
            }
            for variant, found in table.items()
        ]


def _ranked(table: Table) -> list[str]:
    return [name for name in RANKED if name in next(iter(table.values()))]


def as_html(result: ExplanationFigures) -> str:
    """One page that needs no other file and no network."""
    return render(TEMPLATE, result=result, figures=FIGURES, score=SCORE, mask_shares=MASK_SHARES)
