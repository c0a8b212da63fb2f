"""Fits the trust part of a bundle, and measures it on pictures that each fit had not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.bundles.manifest import CasesChoice, Manifest, Trust
from app.bundles.reader import Bundle
from app.cases.index import CaseIndex
from app.engines.protocol import Engine
from app.models.feature_maps import Branch
from app.shapes import Float
from app.trust.conformal import one_per_group
from app.trust.fitted import FittedTrust, trust_of
from training.data.samples import Sample
from training.errors import TrainingProblem
from training.loading.forward import prepared_batches, to_engine_batches
from training.trust.calibration_fit import Comparison, compare, folds_of, simplest
from training.trust.cases_fit import build_index
from training.trust.figures import measure
from training.trust.fitter import SEED, Fitter, promised
from training.trust.novelty_fit import Residuals, fit_branches, fit_parts
from training.trust.observed import Observed, observe_cells, observe_parts

DEFAULT_INSIDE, FOLDS = 0.95, 5
PASTED = 64  # of the training pictures


class TrustProblem(TrainingProblem, ValueError):
    """A trust part that cannot be fitted. The message says why and what to do."""


@dataclass(frozen=True, eq=False)
class TrustFit:
    """A fitted trust part: its section of the manifest, its numbers, and how the calibration maps compared.

    `cases` is the index of similar cases; None leaves the bundle's own.
    """

    section: Trust
    fitted: FittedTrust
    comparisons: tuple[Comparison, ...]
    cases: CaseIndex | None = None


def fit_trust(
    bundle: Bundle,
    engine: Engine,
    train: Sequence[Sample],
    calibration: Sequence[Sample],
    name: str,
    inside: float | None,
    cases: CasesChoice | None,
) -> TrustFit:
    """Fit the trust part of a bundle, and with `cases` the index of similar cases, which shows what that allows.

    The residuals of novelty and the index are of the pictures of `train`; if there are none, those that the bundle has
    are kept. All else is fitted to the pictures of `calibration`, which training must not have seen, and `name` says
    what they are. `inside` is the share of them that count as in distribution, by default DEFAULT_INSIDE or, of few,
    the largest that they can promise. Raises TrustProblem, DataError and BundleError.
    """
    manifest, index = bundle.manifest, None
    if train:
        seen, cells = observe_cells(engine, manifest, train)
        residuals = _residuals(bundle, engine, train, seen, cells)
        if cases is not None:
            index = build_index(seen, train, manifest.classes, cases)
    elif (own := trust_of(bundle)) is not None:
        residuals = Residuals.of(own)
    else:
        raise TrustProblem(
            "the data has no split train, which a first trust part needs: give the data that the model was trained on, "
            "with train and val"
        )
    fit = fit_to(bundle, residuals, observe_parts(engine, manifest, calibration, residuals.cells), name, inside)
    return replace(fit, cases=index)


def fit_to(bundle: Bundle, residuals: Residuals, seen: Observed, name: str, inside: float | None) -> TrustFit:
    """Fit the trust part to pictures that the model has seen already: see `fit_trust`. Raises TrustProblem."""
    manifest = bundle.manifest
    check_enough(seen, manifest)
    fold = folds_of(seen.groups, seen.labels, min(FOLDS, len({*seen.groups})), SEED)
    comparisons = compare(seen.logits.astype(np.float64), seen.labels, seen.groups, fold)
    fit = Fitter(manifest, residuals, simplest(comparisons), _share_inside(inside, len({*seen.groups})))
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


def _residuals(
    bundle: Bundle,
    engine: Engine,
    train: Sequence[Sample],
    seen: Observed,
    cells: Mapping[Branch, Float[np.ndarray, "m _c"]],
) -> Residuals:
    """The residuals of training pictures. Patches are pasted into some of them, to see which branches find them."""
    places = np.random.default_rng(SEED).permutation(len(train))[:PASTED]
    rule = bundle.manifest.input
    batches = prepared_batches([train[place] for place in places], (rule.height_px, rule.width_px), rule.stretch, 1)
    images = (batch[0] for batch in to_engine_batches(batches))
    try:
        return Residuals(fit_branches(seen.features), fit_parts(cells, engine, images))
    except ValueError as error:
        raise TrustProblem(f"the split train is too small for the novelty score: {error}") from error


def check_enough(seen: Observed, manifest: Manifest) -> None:
    """Raises TrustProblem if a class has too few groups to be fitted to."""
    single = seen.labels[one_per_group(seen.groups, SEED)]
    for index, name in enumerate(manifest.classes):
        if (count := int((single == index).sum())) < FOLDS:
            raise TrustProblem(f"class {name} has {count} calibration groups, but {FOLDS} are needed: add some")
