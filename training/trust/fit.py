"""Fits the trust part of a bundle, and measures it on pictures that each fit had not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Manifest, Trust
from app.bundles.reader import Bundle
from app.engines.protocol import Engine
from app.models.feature_maps import Branch
from app.trust.conformal import one_per_group
from app.trust.fitted import FittedTrust, trust_of
from app.trust.novelty import BranchResidual
from training.data.samples import Sample
from training.errors import TrainingProblem
from training.trust.calibration_fit import Comparison, compare, folds_of, simplest
from training.trust.figures import measure
from training.trust.fitter import SEED, Fitter, promised
from training.trust.novelty_fit import fit_branches
from training.trust.observed import Observed, observe

DEFAULT_INSIDE, FOLDS = 0.95, 5


class TrustProblem(TrainingProblem, ValueError):
    """A trust part that cannot be fitted. The message says why and what to do."""


@dataclass(frozen=True, eq=False)
class TrustFit:
    """A fitted trust part: its section of the manifest, its numbers, and how the calibration maps compared."""

    section: Trust
    fitted: FittedTrust
    comparisons: tuple[Comparison, ...]


def fit_trust(
    bundle: Bundle,
    engine: Engine,
    train: Sequence[Sample],
    calibration: Sequence[Sample],
    name: str,
    inside: float | None,
) -> TrustFit:
    """Fit the trust part of a bundle.

    The novelty score is fitted to the pictures of `train`; if there are none, that of the bundle's own trust part is
    kept. All else is fitted to the pictures of `calibration`, which training must not have seen, and `name` says what
    they are. `inside` is the share of them that count as in distribution, by default DEFAULT_INSIDE or, of few, the
    largest that they can promise. Raises TrustProblem, DataError and BundleError.
    """
    return fit_to(bundle, _branches(bundle, engine, train), observe(engine, bundle.manifest, calibration), name, inside)


def fit_to(
    bundle: Bundle, branches: Mapping[Branch, BranchResidual], seen: Observed, name: str, inside: float | None
) -> TrustFit:
    """Fit the trust part to pictures that the model has seen already: see `fit_trust`. Raises TrustProblem."""
    manifest = bundle.manifest
    _check(seen, manifest)
    fold = folds_of(seen.groups, seen.labels, min(FOLDS, len({*seen.groups})), SEED)
    comparisons = compare(seen.logits.astype(np.float64), seen.labels, seen.groups, fold)
    fit = Fitter(manifest, branches, simplest(comparisons), _share_inside(inside, len({*seen.groups})))
    fitted, section = fit(seen), fit.section(seen, name)
    return TrustFit(section.model_copy(update={"figures": measure(fit, seen, fold)}), fitted, tuple(comparisons))


def _share_inside(wanted: float | None, groups: int) -> float:
    largest = groups / (groups + 1)
    if wanted is not None and wanted > largest:
        raise TrustProblem(
            f"--inside {wanted:g} cannot be promised with {groups} calibration groups: at most {largest:.4f}"
        )
    return promised(DEFAULT_INSIDE, largest) if wanted is None else wanted


def calibration_split(samples: Iterable[Sample]) -> str:
    """The split to fit to unless another one is asked for: the one that was set aside for it, or else val."""
    return "calibration" if any(sample.split == "calibration" for sample in samples) else "val"


def _branches(bundle: Bundle, engine: Engine, train: Sequence[Sample]) -> Mapping[Branch, BranchResidual]:
    if not train:
        if (own := trust_of(bundle)) is None:
            raise TrustProblem(
                "the data has no split train, which a first trust part needs: give the data that the model was trained "
                "on, with train and val"
            )
        return own.novelty.branches
    features = observe(engine, bundle.manifest, train).features
    try:
        return fit_branches(features)
    except ValueError as error:
        raise TrustProblem(f"the split train is too small for the novelty score: {error}") from error


def _check(seen: Observed, manifest: Manifest) -> None:
    single = seen.labels[one_per_group(seen.groups, SEED)]
    for index, name in enumerate(manifest.classes):
        if (count := int((single == index).sum())) < FOLDS:
            raise TrustProblem(f"class {name} has {count} calibration groups, but {FOLDS} are needed: add some")
