"""Scores of how foreign a picture is, as others have proposed them, to compare with the one that bundles use.

Each is fitted to the pooled maps and the logits of training pictures, and gives a number for each picture: the higher,
the more foreign. A score of both branches is the sum of the branches' scores, standardised on the training pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from app.models.feature_maps import Branch
from app.shapes import Float, Int
from training.trust.novelty_fit import KEPT, fit_branch

Values = Float[np.ndarray, " n"]
NEIGHBOURS = 10
SHARE = 1 / 5  # of the components that the other scores keep
MAXIMUM, CHOSEN = "maximum probability", "residual, 1/20; both branches"


@dataclass(frozen=True, eq=False)
class Features:
    """The pooled maps of each branch and the logits of some pictures."""

    pooled: Mapping[Branch, Float[np.ndarray, "n _c"]]
    logits: Float[np.ndarray, "n k"]


Score = Callable[[Features], Values]
OfBranch = Callable[[np.ndarray], Values]


def maximum_probability(features: Features) -> Values:
    """Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples"."""
    return np.asarray(-np.exp(features.logits.max(axis=1) - _log_sums(features.logits)))


def energy(features: Features) -> Values:
    """Liu et al. 2020, "Energy-based out-of-distribution detection"."""
    return -_log_sums(features.logits)


def _log_sums(logits: Float[np.ndarray, "n k"]) -> Values:
    top = logits.max(axis=1)
    return np.asarray(np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top)


@dataclass(frozen=True, eq=False)
class Components:
    """The principal components of training features: `directions` and `variances`, the largest first."""

    mean: Float[np.ndarray, " c"]
    directions: Float[np.ndarray, "c q"]
    variances: Float[np.ndarray, " q"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n c"]) -> Components:
        """A share of the components of these features."""
        mean = features.mean(axis=0)
        variances, directions = np.linalg.eigh((features - mean).T @ (features - mean) / len(features))
        kept = int(features.shape[1] * SHARE)
        return cls(mean, directions[:, ::-1][:, :kept], np.maximum(variances[::-1][:kept], 1e-9 * variances[-1]))

    def inside(self, features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n q"]:
        """The features in the components' coordinates."""
        return np.asarray((features - self.mean) @ self.directions)

    def outside(self, features: Float[np.ndarray, "n c"]) -> Values:
        """The squared length of what the components do not hold."""
        rest = features - self.mean - self.inside(features) @ self.directions.T
        return np.asarray(np.square(rest).sum(axis=1))


def unit(features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """The features at length 1."""
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def mahalanobis(train: np.ndarray, labels: Int[np.ndarray, " n"]) -> OfBranch:
    """Lee et al. 2018, in the leading components: the distance to the nearest class's mean, with one covariance."""
    components = Components.of(train)
    inside = components.inside(train)
    means = np.stack([inside[labels == index].mean(axis=0) for index in np.unique(labels)])
    inverse = np.linalg.pinv(np.cov((inside - means[labels]).T))

    def score(features: np.ndarray) -> Values:
        gaps = components.inside(features)[:, None] - means
        return np.asarray(np.log(np.einsum("nkd,de,nke->nk", gaps, inverse, gaps).min(axis=1) + 1e-12))

    return score


def mahalanobis_normalised(train: np.ndarray, labels: Int[np.ndarray, " n"]) -> OfBranch:
    """Mueller and Hein 2025, "Mahalanobis++": the same on features of length 1."""
    score = mahalanobis(unit(train), labels)
    return lambda features: score(unit(features))


def neighbours(train: np.ndarray, labels: Int[np.ndarray, " n"]) -> OfBranch:
    """Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors", on features of length 1."""
    components = Components.of(unit(train))
    stored = components.inside(unit(train))

    def score(features: np.ndarray) -> Values:
        inside = components.inside(unit(features))
        squares = np.square(inside).sum(axis=1)[:, None] + np.square(stored).sum(axis=1) - 2 * inside @ stored.T
        return np.asarray(np.partition(squares, NEIGHBOURS, axis=1)[:, NEIGHBOURS])

    return score


def residual(share: float) -> Callable[[np.ndarray, Int[np.ndarray, " n"]], OfBranch]:
    """The score of bundles, the part of ViM without logits, from a share of the components: see `app.trust.novelty`."""
    return lambda train, labels: fit_branch(train, share).log_residual


def probabilistic_pca(train: np.ndarray, labels: Int[np.ndarray, " n"]) -> OfBranch:
    """The Mahalanobis distance by the covariance of probabilistic PCA (Tipping and Bishop 1999).

    It has the leading components' variances, and one variance for all other directions.
    """
    components = Components.of(train)
    others = train.shape[1] - len(components.variances)
    rest = max(float(components.outside(train).mean()) / others, 1e-12)

    def score(features: np.ndarray) -> Values:
        inside = (np.square(components.inside(features)) / components.variances).sum(axis=1)
        return np.asarray(np.log(inside + components.outside(features) / rest))

    return score


BY_BRANCH = {
    "Mahalanobis, leading components": mahalanobis,
    "Mahalanobis, features of length 1": mahalanobis_normalised,
    "k-nearest neighbours": neighbours,
    "residual, 1/5": residual(1 / 5),
    "residual, 1/10": residual(1 / 10),
    "residual, 1/20": residual(KEPT),
    "Mahalanobis, probabilistic PCA": probabilistic_pca,
}


def vim(train: Features, branch: Branch) -> Score:
    """Wang et al. 2022, "ViM: out-of-distribution with virtual-logit matching": residual and energy together."""
    components = Components.of(train.pooled[branch])
    lengths = np.sqrt(components.outside(train.pooled[branch]))
    alpha = train.logits.max(axis=1).mean() / lengths.mean()
    return lambda some: alpha * np.sqrt(components.outside(some.pooled[branch])) - _log_sums(some.logits)


def fitted_scores(train: Features, labels: Int[np.ndarray, " n"]) -> Iterator[tuple[str, Score]]:
    """Every score by its name."""
    yield MAXIMUM, maximum_probability
    yield "energy", energy
    for name, fit in BY_BRANCH.items():
        scores = {branch: _of_branch(fit(train.pooled[branch], labels), branch) for branch in train.pooled}
        yield from _each_and_both(name, scores, train)
    yield from _each_and_both("ViM", {branch: vim(train, branch) for branch in train.pooled}, train)


def _of_branch(score: OfBranch, branch: Branch) -> Score:
    return lambda features: score(features.pooled[branch])


def _each_and_both(name: str, scores: Mapping[Branch, Score], train: Features) -> Iterator[tuple[str, Score]]:
    for branch, score in scores.items():
        yield f"{name}; {branch}", score
    on_train = {branch: score(train) for branch, score in scores.items()}
    centres = {branch: (float(values.mean()), float(values.std())) for branch, values in on_train.items()}

    def both(features: Features) -> Values:
        return np.asarray(
            sum((score(features) - centres[branch][0]) / centres[branch][1] for branch, score in scores.items())
        )

    yield f"{name}; both branches", both
