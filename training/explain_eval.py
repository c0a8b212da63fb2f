"""How far each heatmap can be believed: every method, branch and fusion rule, measured on labelled pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from tqdm import tqdm

from app.explain.overlay import Box, Style, draw
from app.inference.bundle import read_bundle
from app.inference.engine import load_engine
from app.inference.predictor import Predictor
from app.inference.preprocess import Limits
from training.data import DataError, Sample
from training.evaluate import _chosen, _shown_path, _versions
from training.explain_figures import FIGURES
from training.explain_pictures import BASELINES, Measured, Variant, measure, variants_of
from training.explain_report import ExplanationFigures, Found, Row, Shown, Table, as_html
from training.metrics import Estimate, resamples

PICTURES, REPEATS, SEED = 100, 1000, 0
_SHOWN_PICTURES, _SHOWN_SIDE_PX = 6, 160


def explain_eval(bundle: Path, data: Path, split: str | None, pictures: int, out: Path) -> ExplanationFigures:
    """Explain the answers to `pictures` of one split, drawn by chance, and write `explanations.json` and `.html`.

    Without a split it is `val`, or all pictures where the data has no splits. Raises BundleError, EngineError, and
    DataError for data without that split, with fewer than two pictures, or with a picture or a mask that cannot be
    used.
    """
    read = read_bundle(bundle)
    predictor = Predictor(read, load_engine(read, "auto"), Limits(), _SHOWN_SIDE_PX)
    samples = _drawn(_chosen(data, split), pictures)
    out.mkdir(parents=True, exist_ok=True)  # before the long part, so that a place that cannot be written shows now
    measured = [
        measure(predictor, sample, SEED + number)
        for number, sample in enumerate(tqdm(samples, desc="pictures", unit="picture", disable=None))
    ]
    rows = [_row(sample, one, data) for sample, one in zip(samples, measured, strict=True)]
    variants = variants_of(predictor)
    values = _values(measured, variants)
    groups = [row.group for row in rows]
    explained = np.array([row.explained for row in rows])
    splits = {sample.split for sample in samples}
    result = ExplanationFigures(
        manifest=read.manifest,
        bundle_sha256=read.sha256,
        data=str(data),
        split=splits.pop() if len(splits) == 1 else None,
        rows=rows,
        variants=variants,
        values=values,
        table=_table(variants, values, groups),
        class_tables={
            label: _table(variants, values[explained == label], np.array(groups)[explained == label].tolist())
            for label in read.manifest.classes
            if label in explained
        },
        shown=_shown(measured, rows),
        repeats=REPEATS,
        seed=SEED,
        versions=_versions(predictor),
    )
    document = json.dumps(result.document(), indent=1, ensure_ascii=False, allow_nan=False)
    (out / "explanations.json").write_text(document + "\n", encoding="utf-8")
    (out / "explanations.html").write_text(as_html(result), encoding="utf-8")
    return result


def _drawn(samples: Sequence[Sample], pictures: int) -> list[Sample]:
    """So many of the samples, drawn by chance, in their own order; all where there are no more."""
    if min(pictures, len(samples)) < 2:
        raise DataError("figures with intervals need at least two pictures: choose --pictures 2 or more")
    chosen = np.random.default_rng(SEED).permutation(len(samples))[:pictures]
    return [samples[index] for index in sorted(chosen.tolist())]


def _row(sample: Sample, measured: Measured, data: Path) -> Row:
    path = _shown_path(sample.path, data)
    share = None if measured.mask is None else float(measured.mask.mean())
    return Row(path, sample.group or path, sample.label, measured.explained, measured.probability, share)


def _values(measured: Sequence[Measured], variants: Sequence[Variant]) -> Float[np.ndarray, "n variants figures"]:
    return np.array(
        [[[one.figures[variant].get(name, np.nan) for name in FIGURES] for variant in variants] for one in measured]
    )


def _table(
    variants: Sequence[Variant], values: Float[np.ndarray, "n variants figures"], groups: Sequence[str]
) -> Table:
    """Means over pictures with their bootstrap intervals, and the differences to the baselines, picture by picture.

    A figure that no picture has is left out.
    """
    table: dict[Variant, dict[str, Found]] = {variant: {} for variant in variants}
    for f, name in enumerate(FIGURES):
        there = ~np.isnan(values[:, 0, f])
        if not there.any():
            continue
        of_figure = values[there, :, f]
        means = _resampled_means(of_figure, [group for group, has in zip(groups, there, strict=True) if has])
        for v, variant in enumerate(variants):
            less = {
                other.name: _estimate(of_figure[:, v] - of_figure[:, o], means[:, v] - means[:, o])
                for o, other in enumerate(BASELINES)
                if variant not in BASELINES
            }
            table[variant][name] = Found(_estimate(of_figure[:, v], means[:, v]), less)
    return table


def _resampled_means(
    values: Float[np.ndarray, "n variants"], groups: Sequence[str]
) -> Float[np.ndarray, "repeats variants"]:
    """The means over each resample of whole groups, all variants' over the same."""
    one_class = np.zeros(len(values), np.int64)
    return np.array([values[rows].mean(axis=0) for rows in resamples(one_class, groups, REPEATS, SEED)])


def _estimate(values: Float[np.ndarray, " n"], means: Float[np.ndarray, " repeats"]) -> Estimate:
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return Estimate(float(values.mean()), low, high)


def _shown(measured: Sequence[Measured], rows: Sequence[Row]) -> list[Shown]:
    """The first of the pictures, those with masks before the others: chosen by nothing that they look like."""
    pairs = sorted(zip(measured, rows, strict=True), key=lambda pair: pair[1].mask_share is None)
    found = []
    for one, row in pairs[:_SHOWN_PICTURES]:
        height, width = one.image.shape[:2]
        scale = _SHOWN_SIDE_PX / max(height, width)
        small = Image.fromarray(one.image).resize((round(width * scale), round(height * scale)))
        whole = Box(0.0, 0.0, float(small.width), float(small.height))
        overlays = {v: _jpeg(draw(small, heatmap, whole, Style()).picture) for v, heatmap in one.heatmaps.items()}
        found.append(Shown(row, _jpeg(_outlined(small, one.mask)), overlays))
    return found


def _outlined(picture: Image.Image, mask: Bool[np.ndarray, "h w"] | None) -> UInt8[np.ndarray, "small_h small_w 3"]:
    """The picture with a white line along the inside of the mask's edge."""
    canvas = np.array(picture)
    if mask is not None:
        inside = np.asarray(Image.fromarray(mask).resize(picture.size))
        padded = np.pad(inside, 1, mode="edge")
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        canvas[inside & ~core] = 255
    return canvas


def _jpeg(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80)
    return file.getvalue()
