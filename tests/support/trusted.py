"""Tiny bundles with a trust part, fitted to noise: quick to make, and good for nothing but tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.models.feature_maps import unbatched
from app.trust.foreign_parts import ForeignParts, cells_of
from app.trust.novelty import pooled
from app.trust.quality import sharpness
from tests.support.bundles import write_tiny_bundle
from training.data.draw import draw_dataset
from training.trust.command import add_trust
from training.trust.fitter import Fitter
from training.trust.novelty_fit import Residuals, fit_branches, fit_parts
from training.trust.observed import Observed
from training.trust.write import write_with_trust


def scenes(count: int, seed: int, side_px: int = 64) -> np.ndarray:
    """Smooth pictures of coarse noise, `[count, side, side, 3]`."""
    coarse = np.random.default_rng(seed).integers(40, 216, (count, 4, 4, 3))
    return np.repeat(np.repeat(coarse, side_px // 4, 1), side_px // 4, 2).astype(np.uint8)


@dataclass(frozen=True)
class Indexed:
    """A bundle with a trust part and an index, and the drawn pictures that both were made from."""

    bundle: Path
    data: Path


def write_indexed(folder: Path, plain: Path | None = None) -> Indexed:
    """A tiny bundle, or a copy of the one in `plain`, with a trust part and an index of 90 drawn pictures."""
    draw_dataset(folder / "data", 120, seed=0)
    add_trust(plain or write_tiny_bundle(folder / "plain"), folder / "bundle", folder / "data", None, 0.9, True)
    return Indexed(folder / "bundle", folder / "data")


def write_trusted(plain: Path, out: Path, calibration: int = 40) -> Path:
    """A copy of the bundle in `plain` with a trust part, calibrated on as many scenes with labels in turn."""
    bundle = read_bundle(plain)
    engine = load_engine(bundle, "torch")
    known = engine.encode(scenes(60, 0))
    cells = {branch: np.concatenate([cells_of(each) for each in of_branch]) for branch, of_branch in known.items()}
    residuals = Residuals(fit_branches(pooled(known)), fit_parts(cells, engine, list(scenes(8, 2))))
    pictures = scenes(calibration, 1)
    maps = engine.encode(pictures)
    parts = ForeignParts(residuals.cells or {}, np.zeros(0))
    seen = Observed(
        pooled(maps),
        engine.classify(maps),
        np.array([sharpness(picture) for picture in pictures]),
        np.arange(len(pictures)) % len(bundle.manifest.classes),
        tuple(map(str, range(len(pictures)))),
        np.array([parts.distances(of_picture).max() for of_picture in unbatched(maps)]),
    )
    fit = Fitter(bundle.manifest, residuals, "temperature", 0.9)
    write_with_trust(bundle, out, fit.section(seen, "noise"), fit(seen))
    return out
