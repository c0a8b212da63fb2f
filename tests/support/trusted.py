"""Tiny bundles with a trust part, fitted to noise: quick to make, and good for nothing but tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.trust.novelty import pooled
from app.trust.quality import sharpness
from training.trust.fitter import Fitter
from training.trust.novelty_fit import fit_branches
from training.trust.observed import Observed
from training.trust.write import write_with_trust


def scenes(count: int, seed: int, side_px: int = 64) -> np.ndarray:
    """Smooth pictures of coarse noise, `[count, side, side, 3]`."""
    coarse = np.random.default_rng(seed).integers(40, 216, (count, 4, 4, 3))
    return np.repeat(np.repeat(coarse, side_px // 4, 1), side_px // 4, 2).astype(np.uint8)


def write_trusted(plain: Path, out: Path, calibration: int = 40) -> Path:
    """A copy of the bundle in `plain` with a trust part, calibrated on as many scenes with labels in turn."""
    bundle = read_bundle(plain)
    engine = load_engine(bundle, "torch")
    seen = []
    for pictures in (scenes(60, 0), scenes(calibration, 1)):
        maps = engine.encode(pictures)
        labels = np.arange(len(pictures)) % len(bundle.manifest.classes)
        sharp = np.array([sharpness(picture) for picture in pictures])
        groups = tuple(map(str, range(len(pictures))))
        seen.append(Observed(pooled(maps), engine.classify(maps), sharp, labels, groups))
    fit = Fitter(bundle.manifest, fit_branches(seen[0].features), "temperature", 0.9)
    write_with_trust(bundle, out, fit.section(seen[1], "noise"), fit(seen[1]))
    return out
