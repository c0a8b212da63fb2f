"""The novelty score tells pictures off the training pictures' subspace, whatever the branches are."""

from __future__ import annotations

import numpy as np
import pytest

from app.models.feature_maps import Branch
from app.trust.novelty import Novelty, pooled
from training.trust.novelty_fit import fit_branch, fit_branches


def _features(rng: np.random.Generator, count: int, channels: int = 160) -> np.ndarray:
    """Pictures in a subspace of eight dimensions, with a little noise."""
    basis = np.random.default_rng(7).normal(size=(8, channels))
    return np.asarray(rng.normal(size=(count, 8)) @ basis + 0.05 * rng.normal(size=(count, channels)), np.float32)


@pytest.mark.parametrize("branches", [("cnn",), ("swin",), ("cnn", "swin")])
def test_what_leaves_the_subspace_is_foreign_and_what_stays_is_not(branches: tuple[Branch, ...]) -> None:
    rng = np.random.default_rng(0)
    train, calibration, fresh = ({b: _features(rng, count) for b in branches} for count in (500, 300, 300))
    fitted = fit_branches(train)
    novelty = Novelty(fitted, np.sort(Novelty(fitted, np.zeros(0)).scores(calibration)))
    percentiles = np.array([novelty.percentile(score) for score in novelty.scores(fresh)])
    assert 40 < percentiles.mean() < 60
    foreign = {b: _features(rng, 300) + rng.normal(size=(300, 160)).astype(np.float32) for b in branches}
    assert min(map(novelty.percentile, novelty.scores(foreign))) > 95


def test_the_score_depends_on_neither_the_channels_order_nor_the_batch() -> None:
    rng = np.random.default_rng(1)
    train, fresh = _features(rng, 200), _features(rng, 9)
    order = rng.permutation(160)
    scores = fit_branch(train).log_residual(fresh)
    np.testing.assert_allclose(fit_branch(train[:, order]).log_residual(fresh[:, order]), scores, atol=1e-2)
    alone = [fit_branch(train).log_residual(fresh[index : index + 1])[0] for index in range(9)]
    np.testing.assert_allclose(alone, scores, atol=1e-9)


@pytest.mark.parametrize("faulty", ["one colour", "few", "dead channels"])
def test_degenerate_training_pictures_give_finite_scores(faulty: str) -> None:
    rng = np.random.default_rng(2)
    train = {
        "one colour": np.ones((20, 160), np.float32),
        "few": _features(rng, 3),
        "dead channels": np.where(np.arange(160) < 80, 0, _features(rng, 60)).astype(np.float32),
    }[faulty]
    assert np.isfinite(fit_branch(train).log_residual(_features(rng, 5))).all()


def test_maps_are_pooled_over_their_cells() -> None:
    maps: dict[Branch, np.ndarray] = {"cnn": np.arange(24, dtype=np.float16).reshape(1, 2, 3, 4)}
    assert pooled(maps)["cnn"].tolist() == [[5.5, 17.5]]
