"""Evaluation of heatmaps on labelled pictures: every method, branch and merge rule, by every metric."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from app.bundles.reader import read_bundle
from app.drawing.overlay import Style, draw
from app.engines.load import load_engine
from app.pictures.rectangle import Rectangle
from app.predicting.predictor import Predictor
from app.progress import tracked
from app.shapes import Bool, Float, UInt8
from training.data.limits import TRAINING_LIMITS
from training.data.samples import DataError, Sample
from training.evaluation.evaluate import library_versions, read_split, relative_path
from training.heatmaps.measure import (
    BASELINES,
    MaskedPicture,
    MeasuredPicture,
    Variant,
    measure,
    open_picture,
    variants_of,
)
from training.heatmaps.metrics import METRICS
from training.heatmaps.report import HeatmapEvaluation, MetricResult, PictureRow, ShownPicture, Table, as_html
from training.metrics.classification import Estimate, resamples
from training.output import write_text

DEFAULT_PICTURES, REPEATS, SEED = 100, 1000, 0
_SHOWN_PICTURES, _SHOWN_SIDE_PX = 6, 160


def evaluate_heatmaps(bundle: Path, data: Path, split: str | None, picture_count: int, out: Path) -> HeatmapEvaluation:
    """Evaluate the heatmaps of a bundle's answers on a random sample of one split.

    Writes `explanations.json` and `explanations.html` to `out`. If `split` is None, it is `val` or else `test`, or all
    pictures if the data has no splits. Raises BundleError, EngineError, and DataError for a missing split, for pictures
    of fewer than two groups, and for a picture or mask that cannot be used.
    """
    data_set = read_split(data, split)
    samples = _draw_samples(data_set.samples, picture_count)
    read = read_bundle(bundle)
    predictor = Predictor(read, load_engine(read, "auto"), TRAINING_LIMITS, _SHOWN_SIDE_PX)
    # Files that cannot be read or written raise before the long part.
    pictures = [open_picture(predictor, sample) for sample in samples]
    out.mkdir(parents=True, exist_ok=True)
    measured = _measure_all(predictor, pictures)
    rows = [
        _row(sample, picture, explained, data)
        for sample, picture, explained in zip(samples, pictures, measured, strict=True)
    ]
    variants = variants_of(predictor)
    values = _values(measured, variants)
    splits = {sample.split for sample in samples}
    evaluation = HeatmapEvaluation(
        manifest=read.manifest,
        bundle_sha256=read.sha256,
        data=str(data),
        split=splits.pop() if len(splits) == 1 else None,
        rows=rows,
        variants=variants,
        values=values,
        table=_table(variants, values, rows),
        class_tables=_class_tables(variants, values, rows),
        shown=_shown_pictures(pictures, measured, rows),
        repeats=REPEATS,
        seed=SEED,
        versions=library_versions(predictor),
        remarks=data_set.remarks,
    )
    document = json.dumps(evaluation.document(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / "explanations.json", document + "\n")
    write_text(out / "explanations.html", as_html(evaluation))
    return evaluation


def _draw_samples(samples: Sequence[Sample], picture_count: int) -> list[Sample]:
    """Draw `picture_count` of the samples at random, or take all if there are fewer. They keep their order."""
    numbers = np.random.default_rng(SEED).permutation(len(samples))[: max(picture_count, 0)]
    chosen = [samples[number] for number in sorted(numbers.tolist())]
    if len({sample.group or sample.path for sample in chosen}) < 2:
        raise DataError("intervals need pictures of at least two groups: choose more --pictures")
    return chosen


def _measure_all(predictor: Predictor, pictures: Sequence[MaskedPicture]) -> list[MeasuredPicture]:
    """Measure each picture on its own, with as many at once as the engine can run in parallel."""
    pool = ThreadPoolExecutor(predictor.engine.concurrency)
    try:
        each = pool.map(partial(measure, predictor), pictures, range(SEED, SEED + len(pictures)))
        return list(tracked(each, "pictures", "pictures", len(pictures)))
    finally:
        pool.shutdown(cancel_futures=True)


def _row(sample: Sample, picture: MaskedPicture, measured: MeasuredPicture, data: Path) -> PictureRow:
    path = relative_path(sample.path, data)
    share = None if picture.mask is None else float(picture.mask.mean())
    return PictureRow(path, sample.group or path, sample.label, measured.explained, measured.probability, share)


def _values(
    measured: Sequence[MeasuredPicture], variants: Sequence[Variant]
) -> Float[np.ndarray, "n variants metrics"]:
    return np.array(
        [
            [[picture.metrics[variant].get(name, np.nan) for name in METRICS] for variant in variants]
            for picture in measured
        ]
    )


def _table(
    variants: Sequence[Variant], values: Float[np.ndarray, "n variants metrics"], rows: Sequence[PictureRow]
) -> Table:
    """Compute the means over pictures and the paired differences to the baselines, with bootstrap intervals.

    A metric that pictures of fewer than two groups have is left out.
    """
    table: dict[Variant, dict[str, MetricResult]] = {variant: {} for variant in variants}
    for f, name in enumerate(METRICS):
        measured_rows = np.flatnonzero(~np.isnan(values[:, 0, f])).tolist()
        metric_values, groups = values[measured_rows, :, f], [rows[n].group for n in measured_rows]
        if len(set(groups)) < 2:
            continue
        means = _resampled_means(metric_values, groups)
        for v, variant in enumerate(variants):
            differences = {
                baseline.name: _estimate(metric_values[:, v] - metric_values[:, b], means[:, v] - means[:, b])
                for b, baseline in enumerate(BASELINES)
                if variant not in BASELINES
            }
            table[variant][name] = MetricResult(_estimate(metric_values[:, v], means[:, v]), differences)
    return table


def _class_tables(
    variants: Sequence[Variant], values: Float[np.ndarray, "n variants metrics"], rows: Sequence[PictureRow]
) -> dict[str, Table]:
    """Compute a table for each explained class, of the pictures for which it was explained, if they have two groups."""
    tables = {}
    for label in sorted({row.explained for row in rows}):
        class_rows = [n for n, row in enumerate(rows) if row.explained == label]
        if len({rows[n].group for n in class_rows}) > 1:
            tables[label] = _table(variants, values[class_rows], [rows[n] for n in class_rows])
    return tables


def _resampled_means(
    values: Float[np.ndarray, "n variants"], groups: Sequence[str]
) -> Float[np.ndarray, "repeats variants"]:
    """Return the means of all variants over the same bootstrap resamples of whole groups."""
    one_class = np.zeros(len(values), np.int64)
    return np.array([values[rows].mean(axis=0) for rows in resamples(one_class, groups, REPEATS, SEED)])


def _estimate(values: Float[np.ndarray, " n"], means: Float[np.ndarray, " repeats"]) -> Estimate:
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return Estimate(float(values.mean()), low, high)


def _shown_pictures(
    pictures: Sequence[MaskedPicture], measured: Sequence[MeasuredPicture], rows: Sequence[PictureRow]
) -> list[ShownPicture]:
    """Draw the page's pictures: the first ones, with those that have masks before the others."""
    shown = []
    for n in sorted(range(len(rows)), key=lambda n: pictures[n].mask is None)[:_SHOWN_PICTURES]:
        model_input = Image.fromarray(pictures[n].upload.image)
        scale = _SHOWN_SIDE_PX / max(model_input.size)
        small = model_input.resize((round(model_input.width * scale), round(model_input.height * scale)))
        whole = Rectangle(0.0, 0.0, float(small.width), float(small.height))
        heatmaps = measured[n].heatmaps.items()
        overlays = {variant: _jpeg(draw(small, heatmap, whole, Style()).picture) for variant, heatmap in heatmaps}
        shown.append(ShownPicture(rows[n], _jpeg(_outlined(small, pictures[n].mask)), overlays))
    return shown


def _outlined(picture: Image.Image, mask: Bool[np.ndarray, "h w"] | None) -> UInt8[np.ndarray, "small_h small_w 3"]:
    """Draw a white line into the picture along the inside of the mask's edge."""
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
