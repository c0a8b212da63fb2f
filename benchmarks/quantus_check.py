"""FusionLens's figures of heatmaps against quantus's, of the same heatmaps and with the same model.

python -m benchmarks.quantus_check BUNDLE DATA [--pictures N] prints a table, and ends with 1 where a pair that should
agree does not. It wants an environment of its own (make quantus), since quantus brings a second OpenCV.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from quantus.functions.similarity_func import correlation_pearson
from scipy.stats import spearmanr
from tqdm import tqdm

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.errors import FusionLensError
from app.explain.fine import shifted
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from benchmarks import quantus_figures as theirs
from training.data.samples import DataError, Sample
from training.evaluation.evaluate import samples_of_split
from training.heatmaps import faithfulness as ours
from training.heatmaps.faithfulness import Heatmap, Image
from training.heatmaps.imputation import NOISE, impute
from training.heatmaps.measure import BLUR_SIGMA_SHARE, open_picture, probability_of

METHODS = ("gradcam", "hirescam", "integrated")
SEED, SHIFT_PX = 0, 8
Figures = dict[str, tuple[Any, Any]]  # ours and quantus's, by the names in PAIRS


class Pair(NamedTuple):
    """Two figures, and how far apart they may be: None where they need not agree, and the note says why."""

    ours: str
    theirs: str
    tolerance: float | None
    note: str


PAIRS = {
    "score": Pair("score", "its model's answer", 1e-5, "the untouched picture"),
    "pointing": Pair("pointing", "PointingGame", 0, "ties broken beforehand"),
    "tied": Pair("pointing", "PointingGame", None, "of tied maxima, ours is the share inside, quantus's if any is"),
    "mass": Pair("energy inside", "RelevanceMassAccuracy", 1e-9, "of the positive part"),
    "energy": Pair("energy inside", "AttributionLocalisation", 1e-6, "`positive_attributions`"),
    "deleted": Pair("deletion, each point", "PixelFlipping", 1e-5, "ties broken, equal steps, features are pixels"),
    "deletion": Pair("deletion", "PixelFlipping, AUC", 1e-5, "the same, the untouched picture's score in front"),
    "inserted": Pair("insertion, each point", "PixelFlipping", 1e-5, "from the blur to the picture, else the same"),
    "insertion": Pair("insertion", "PixelFlipping, AUC", 1e-5, "the same"),
    "steps": Pair("deletion, as reported", "PixelFlipping, AUC", None, "other steps: quantus's must divide the pixels"),
    "scattered": Pair("imputation, grey levels", "noisy_linear_imputation", 1, "half the pixels by chance, no noise"),
    "filled": Pair("imputation, grey levels", "noisy_linear_imputation", 1, "the highest half, no noise"),
    "noise": Pair("noise, grey levels", "noisy_linear_imputation", 0.1, "its standard deviation"),
    "order": Pair("ROAD", "ROAD, its model's answers", 1e-5, "ties broken, no noise, our imputation, both orders"),
    "road": Pair("ROAD", "ROAD, its model's answers", 0.01, "ties broken, no noise, its own imputation, both orders"),
    "noisy": Pair("ROAD, as reported", "ROAD, its model's answers", None, "other random numbers in noise and ties"),
    "kept": Pair("ROAD, as reported", "ROAD", None, "quantus's counts pictures that keep their class"),
    "shift": Pair("shift", "correlation_pearson", 1e-6, "one shift, over what both show"),
}


def compared(predictor: Predictor, probability: theirs.Probability, sample: Sample) -> Iterator[Figures]:
    """Our figures and quantus's of one picture, for each method."""
    opened = open_picture(predictor, sample)
    upload, image = opened.upload, opened.upload.image
    moved = replace(upload, image=shifted(image, SHIFT_PX, SHIFT_PX))
    predictions = [predictor.predict(one)[0] for one in (upload, moved)]
    target = predictor.answer(predictions[0]).label
    label, score = predictor.bundle.manifest.classes.index(target), probability_of(predictor, upload, target)
    for method in METHODS:
        question = HeatmapRequest(method=method, target=target)
        grids = (predictor.explain_one(prediction, question).heatmap for prediction in predictions)
        heatmap, of_moved = (ours.enlarge(grid, image.shape[:2]) for grid in grids)
        asked = score, probability, label, image, heatmap
        yield (
            _exchanges(*asked) | _roads(*asked) | _located(heatmap, opened.mask) | {"shift": _moved(heatmap, of_moved)}
        )


def _exchanges(
    score: ours.Score, probability: theirs.Probability, label: int, image: Image, heatmap: Heatmap
) -> Figures:
    grey, blur = ours.mean_colour(image), ours.blurred(image, BLUR_SIGMA_SHARE * min(image.shape[:2]))
    ranks, steps = theirs.without_ties(heatmap), theirs.dividing_steps(heatmap.size)
    curve = partial(theirs.exchange_curve, probability, label, steps=steps)
    deleted, inserted, tied = curve(image, grey, ranks), curve(blur, image, ranks), curve(image, grey, heatmap)
    return {
        "score": (score(image[None])[0], deleted[0]),
        "deleted": (ours.exchange_curve(score, image, grey, ranks, steps), deleted),
        "deletion": (ours.deletion(score, image, ranks, grey, steps), theirs.area(deleted)),
        "inserted": (ours.exchange_curve(score, blur, image, ranks, steps), inserted),
        "insertion": (ours.insertion(score, image, ranks, blur, steps), theirs.area(inserted)),
        "steps": (ours.deletion(score, image, heatmap, grey), theirs.area(tied)),
    }


def _roads(score: ours.Score, probability: theirs.Probability, label: int, image: Image, heatmap: Heatmap) -> Figures:
    ranks = theirs.without_ties(heatmap)
    road = partial(theirs.road, probability, label, image)
    as_reported, (noisy, kept) = ours.road(score, image, heatmap), road(heatmap, {})
    with patch.object(ours, "impute", partial(impute, noise=0)):
        without_noise = ours.road(score, image, ranks)
    removed = ranks >= ranks.size // 2
    fill, rng = partial(impute, image, removed), np.random.default_rng(SEED)
    filled, with_noise = (np.moveaxis(fill(rng, noise), -1, 0).astype(np.float64) for noise in (0, NOISE))
    their_filled, their_noise = (theirs.imputed(image, removed, noise) for noise in (0, NOISE))
    scattered = np.random.default_rng(SEED).random(removed.shape) < 0.5
    return {
        "scattered": (np.moveaxis(impute(image, scattered, rng, 0), -1, 0), theirs.imputed(image, scattered, 0)),
        "filled": (filled[:, removed], their_filled[:, removed]),
        "noise": ((with_noise - filled)[:, removed].std(), (their_noise - their_filled)[:, removed].std()),
        "order": (without_noise, road(ranks, {"perturb_func": theirs.our_imputation})[0]),
        "road": (without_noise, road(ranks, {"noise": 0.0})[0]),
        "noisy": (as_reported, noisy),
        "kept": (as_reported, kept),
    }


def _located(heatmap: Heatmap, mask: np.ndarray | None) -> Figures:
    if mask is None:
        return {}
    ranks = theirs.without_ties(heatmap)
    found: Figures = {
        "pointing": (ours.pointing(ranks, mask), theirs.pointing(ranks, mask)),
        "tied": (ours.pointing(heatmap, mask), theirs.pointing(heatmap, mask)),
    }
    if heatmap.max() > 0:  # quantus refuses a heatmap in which nothing speaks for the class; ours is 0
        inside = ours.energy_inside(heatmap, mask)
        found["mass"] = inside, theirs.mass_inside(heatmap, mask)
        found["energy"] = inside, theirs.localised(heatmap, mask)
    return found


def _moved(heatmap: Heatmap, of_moved: Heatmap) -> tuple[float, float]:
    common = heatmap[:-SHIFT_PX, :-SHIFT_PX].astype(np.float64), of_moved[SHIFT_PX:, SHIFT_PX:].astype(np.float64)
    mine = ours.correlation_after_shift(heatmap, of_moved, SHIFT_PX, SHIFT_PX)
    return mine, float(correlation_pearson(*(part.ravel() for part in common)))


def table(found: Sequence[Figures]) -> tuple[list[str], bool]:
    """Lines of Markdown, and whether every pair that should agree was there and does."""
    lines = [
        "| ours | quantus | parameters, or why they differ | heatmaps | mean, ours | mean, quantus | "
        "largest difference | tolerance | rank correlation |",
        "| --- | --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    agree = True
    for name, pair in PAIRS.items():
        values = [figures[name] for figures in found if name in figures]
        apart = max((float(np.abs(np.subtract(*both)).max()) for both in values), default=np.nan)
        within = pair.tolerance is None or apart <= pair.tolerance
        agree &= within
        allowed = "–" if pair.tolerance is None else f"{pair.tolerance:g}" + ("" if within else " **missed**")
        means = [[float(np.mean(both[side])) for both in values] for side in (0, 1)]
        wanted = pair.tolerance is None and all(len(set(one)) > 1 for one in means)
        ranked = f"{spearmanr(*means).statistic:.3f}" if wanted else "–"
        centres = " | ".join(f"{np.mean(one):.4f}" if one else "–" for one in means)
        what = f"{pair.ours} | {pair.theirs} | {pair.note} | {len(values)}"
        lines.append(f"| {what} | {centres} | {apart:.2g} | {allowed} | {ranked} |")
    return lines, agree


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantus_check")
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("data", type=Path, help="pictures with masks, as for training")
    parser.add_argument("--pictures", type=int, default=12, help="how many, drawn by chance from val (default 12)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="quantus")  # of settings that are meant here
    try:
        bundle, samples = read_bundle(args.bundle), samples_of_split(args.data, None)
        predictor = Predictor(bundle, load_engine(bundle, "torch"), Limits(), 160)
        drawn = np.random.default_rng(SEED).permutation(len(samples))[: max(args.pictures, 0)]
        probability = theirs.Probability(bundle).eval()
        np.random.seed(SEED)  # quantus's noise
        found = [one for n in tqdm(sorted(drawn)) for one in compared(predictor, probability, samples[n])]
    except (FusionLensError, DataError) as error:
        sys.exit(str(error))
    lines, agree = table(found)
    print(f"{len(drawn)} pictures, {len(METHODS)} methods; quantus {version('quantus')}, torch {version('torch')}")
    print("\n".join(lines))
    sys.exit(not agree)


if __name__ == "__main__":
    main()
