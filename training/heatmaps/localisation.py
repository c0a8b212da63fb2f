"""Localisation of heatmaps on pictures with masks: every method on the model's grid and in fine detail, Swin tokens.

Unlike faithfulness, this needs few passes of the model, so all pictures with masks can be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.explain.merge import Heatmap
from app.explain.methods import METHODS
from app.predicting.predictor import Predictor
from app.predicting.request import Detail, HeatmapRequest, TokenRequest
from app.progress import tracked
from app.shapes import Bool, Float
from training.data.limits import TRAINING_LIMITS
from training.data.samples import DataError
from training.evaluation.evaluate import read_split
from training.heatmaps.evaluate import REPEATS, SEED
from training.heatmaps.faithfulness import energy_inside, enlarge, pointing
from training.heatmaps.measure import MaskedPicture, gaussian_profile, open_picture
from training.metrics.classification import Estimate, resamples

CENTRED = "centred Gaussian"
DETAILS: dict[str, Detail] = {"": "grid", ", fine": "fine"}
_PREVIEW_PX = 64


@dataclass(frozen=True)
class LocalisationRow:
    """The metrics of one kind of heatmap: pointing game and energy inside the mask.

    `gain` is the paired difference in energy of fine detail minus the model's grid, or None for the grid itself.
    """

    pointing: Estimate
    energy: Estimate
    gain: Estimate | None


@dataclass(frozen=True)
class Localisation:
    """The metrics of every kind of heatmap, by its name, over a number of pictures.

    `remarks` are sentences on how the data was read.
    """

    pictures: int
    bundle_sha256: str
    rows: Mapping[str, LocalisationRow]
    remarks: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the content of `localisation.json`."""
        rows = {
            name: {
                metric: None if (estimate := getattr(row, metric)) is None else [*vars(estimate).values()]
                for metric in ("pointing", "energy", "gain")
            }
            for name, row in self.rows.items()
        }
        document = {"pictures": self.pictures, "bundle_sha256": self.bundle_sha256, "mean, low, high": rows}
        return document | {"remarks": list(self.remarks)}

    def text(self) -> str:
        """Format the metrics as a table in Markdown."""
        lines = [
            *(f"{remark}.\n" for remark in self.remarks),
            f"{self.pictures} pictures with masks; 95 % intervals over whole groups.\n",
            "| heatmap | pointing | energy inside | fine minus grid |",
            "| --- | --- | --- | --- |",
        ]
        for name, row in self.rows.items():
            gain = "" if row.gain is None else _format(row.gain, sign=True)
            lines.append(f"| {name} | {_format(row.pointing)} | {_format(row.energy)} | {gain} |")
        return "\n".join(lines)


def measure_localisation(bundle: Path, data: Path, split: str | None) -> Localisation:
    """Explain the answer to every picture of a split that has a mask, and measure the localisation in the mask.

    If `split` is None, it is `val` or else `test`, or all pictures if the data has no splits. Masks that are too small
    or too large do not count (`MASK_SHARES`). Raises BundleError, EngineError, and DataError for a missing split, for
    masks of fewer than two groups, and for a picture or mask that cannot be used.
    """
    read = read_bundle(bundle)
    predictor = Predictor(read, load_engine(read, "auto"), TRAINING_LIMITS, _PREVIEW_PX)
    measured, groups = [], []
    data_set = read_split(data, split)
    samples = [sample for sample in data_set.samples if sample.mask is not None]
    for sample in tracked(samples, "pictures", "pictures", len(samples)):
        picture = open_picture(predictor, sample)
        if picture.mask is not None:
            measured.append(_localise(_heatmaps(predictor, picture), picture.mask))
            groups.append(sample.group or str(sample.path))
    if len(set(groups)) < 2:
        raise DataError(f"{data}: intervals need masks of at least two groups")
    names = list(measured[0])
    values = np.array([[metrics[name] for name in names] for metrics in measured])
    return Localisation(len(measured), read.sha256, _rows(names, values, groups), data_set.remarks)


def _heatmaps(predictor: Predictor, picture: MaskedPicture) -> dict[str, Heatmap]:
    """Compute all heatmaps of the answer. A method's fine heatmap follows the one on the grid."""
    prediction, _ = predictor.predict(picture.upload, with_gradient=True)
    shifted = [predictor.predict(upload, with_gradient=True)[0] for upload in predictor.moved_uploads(prediction)]
    heatmaps: dict[str, Heatmap] = {}
    for method in METHODS:
        for name, detail in DETAILS.items():
            request = HeatmapRequest(tuple(predictor.capabilities.views), method, detail=detail)
            for explanation in predictor.explain(prediction, predictor.accept(request), shifted):
                heatmaps[f"{explanation.branch} {method}{name}"] = explanation.heatmap
    for stage in predictor.engine.token_stages:
        heatmaps[f"token saliency, stage {stage}"] = predictor.explain_one(prediction, TokenRequest(stage)).heatmap
    rows, columns = next(iter(heatmaps.values())).shape
    return heatmaps | {CENTRED: np.outer(gaussian_profile(rows), gaussian_profile(columns))}


def _localise(heatmaps: Mapping[str, Heatmap], mask: Bool[np.ndarray, "h w"]) -> dict[str, tuple[float, float]]:
    enlarged = {name: enlarge(heatmap, mask.shape) for name, heatmap in heatmaps.items()}
    return {name: (pointing(values, mask), energy_inside(values, mask)) for name, values in enlarged.items()}


def _rows(
    names: Sequence[str], values: Float[np.ndarray, "n kinds 2"], groups: Sequence[str]
) -> dict[str, LocalisationRow]:
    resampled = list(resamples(np.zeros(len(values), np.int64), groups, REPEATS, SEED))

    def estimate(of_picture: Float[np.ndarray, " n"]) -> Estimate:
        low, high = np.percentile([of_picture[rows].mean() for rows in resampled], [2.5, 97.5]).tolist()
        return Estimate(float(of_picture.mean()), low, high)

    rows = {}
    for n, name in enumerate(names):
        grid = name.removesuffix(", fine")
        gain = None if grid == name else estimate(values[:, n, 1] - values[:, names.index(grid), 1])
        rows[name] = LocalisationRow(estimate(values[:, n, 0]), estimate(values[:, n, 1]), gain)
    return rows


def _format(estimate: Estimate, sign: bool = False) -> str:
    mean, low, high = vars(estimate).values()
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if sign else f"{mean:.3f} ({low:.3f} to {high:.3f})"
