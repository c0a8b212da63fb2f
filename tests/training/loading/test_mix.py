"""MixUp and CutMix: one weight and one partner, for both branches and the targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.loading.mix import mix
from training.recipe.config import Augmentation

MIXUP = Augmentation(mixup_alpha=0.4, cutmix_alpha=0)
CUTMIX = Augmentation(mixup_alpha=0, cutmix_alpha=1.0)
BOTH = Augmentation(mixup_alpha=0.4, cutmix_alpha=1.0)


def batch(size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures that hold their own number everywhere, in the Swin's view times 10, each a class of its own."""
    number = torch.arange(size).double()
    cnn = number.view(size, 1, 1, 1).expand(size, 3, 20, 30)
    return cnn, cnn * 10, torch.eye(size).double()


def mixed(config: Augmentation, update: int, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return mix(*batch(), config=config, seed=seed, epoch=epoch, update=update)


@pytest.mark.parametrize("config", [MIXUP, CUTMIX, BOTH])
def test_both_branches_and_the_targets_take_the_same_share_of_the_same_partner(config: Augmentation) -> None:
    number = torch.arange(6).double()
    for update in range(20):
        cnn, swin, targets = mixed(config, update)
        torch.testing.assert_close(swin, cnn * 10)
        torch.testing.assert_close(targets @ number, cnn.mean(dim=(1, 2, 3)))
        weights = targets[range(6), range(6)]
        assert (weights == weights[0]).all()
        torch.testing.assert_close(targets[range(6), [1, 0, 3, 2, 5, 4]], 1 - weights)


def test_cutmix_pastes_one_box_of_the_partner_and_counts_its_pixels() -> None:
    kept, places = [], set()
    for update in range(40):
        cnn, _, targets = mixed(CUTMIX, update)
        pasted = cnn[0] == 1
        assert ((cnn[0] == 0) | pasted).all()
        assert float(targets[0, 1]) == pytest.approx(float(pasted.double().mean()), abs=1e-12)
        rows, columns = pasted[0].any(dim=1), pasted[0].any(dim=0)
        assert torch.equal(pasted[0], rows[:, None] & columns)
        places.add((tuple(rows.tolist()), tuple(columns.tolist())))
        kept.append(float(targets[0, 0]))
    assert len(places) > 30 and min(kept) < 0.4 and max(kept) > 0.9


def test_the_weight_of_mixup_is_drawn_from_a_beta_distribution() -> None:
    cnn, swin, targets = batch(2)
    inputs = cnn[..., :1, :1], swin[..., :1, :1], targets
    drawn = (mix(*inputs, config=MIXUP, seed=0, epoch=0, update=update)[2] for update in range(1500))
    weights = np.array([float(targets[0, 0]) for targets in drawn])
    assert weights.mean() == pytest.approx(0.5, abs=0.04)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.012)  # of Beta(a, a)


def test_with_both_on_a_coin_decides() -> None:
    cut = sum(len(mixed(BOTH, update)[0][0].unique()) == 2 for update in range(200))
    assert 70 < cut < 130


@pytest.mark.parametrize("config", [MIXUP, CUTMIX, BOTH])
def test_parts_of_a_batch_are_mixed_as_the_whole(config: Augmentation) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = [torch.rand(8, 3, 12, 10, generator=generator), torch.rand(8, 3, 12, 10, generator=generator)]
    whole.append(torch.eye(8))
    for update in range(6):
        together = mix(*whole, config=config, seed=3, epoch=1, update=update)
        for start, stop in ((0, 4), (4, 6), (6, 8)):
            pictures = (values[start:stop] for values in whole)
            part = mix(*pictures, config=config, seed=3, epoch=1, update=update)
            for one, other in zip(part, together, strict=True):
                assert torch.equal(one, other[start:stop])


def test_another_seed_epoch_or_update_draws_another_weight() -> None:
    weights = {float(mixed(MIXUP, u, seed=s, epoch=e)[2][0, 0]) for s in range(3) for e in range(3) for u in range(3)}
    assert len(weights) == 27


def test_inputs_keep_their_type_and_their_values() -> None:
    for config in (MIXUP, CUTMIX):
        cnn, swin, targets = (values.float() for values in batch())
        before = cnn.clone(), swin.clone(), targets.clone()
        out = mix(cnn, swin, targets, config=config, seed=0, epoch=0, update=0)
        assert {values.dtype for values in out} == {torch.float32}
        assert all(torch.equal(one, other) for one, other in zip((cnn, swin, targets), before, strict=True))


def test_with_both_off_nothing_is_touched_and_an_odd_batch_is_fine() -> None:
    off = Augmentation(mixup_alpha=0, cutmix_alpha=0)
    for size in (5, 6):
        inputs = batch(size)
        out = mix(*inputs, config=off, seed=0, epoch=0, update=0)
        assert all(one is other for one, other in zip(out, inputs, strict=True))


@pytest.mark.parametrize("config", [MIXUP, CUTMIX])
def test_an_odd_number_of_pictures_is_refused(config: Augmentation) -> None:
    with pytest.raises(ValueError, match="5 is odd"):
        mix(*batch(5), config=config, seed=0, epoch=0, update=0)
