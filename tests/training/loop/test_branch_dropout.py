"""Branch dropout: which maps are replaced, by what, and what the branches learn from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from training.evaluation.variants import variant_recipes
from training.loop.branch_dropout import drop_branches
from training.loop.loss import Loss
from training.loop.optim import build_optimizer
from training.loop.processes import Processes
from training.loop.update import BatchPart, Updater
from training.recipe.config import BranchDropout, Recipe, RecipeError
from training.recipe.load import load_recipe

BOTH = BranchDropout(cnn=0.3, swin=0.2)
LABELS = [0, 1, 0, 1]


def random_maps(count: int) -> FeatureMaps[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"cnn": (count, 3, 2, 2), "vit": (count, 4, 3, 3)}
    return FeatureMaps({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def left_out(before: Tensor, after: Tensor) -> np.ndarray:
    """Of which pictures a map is the mean. Those of the others must be what they were."""
    replaced = (after != before).flatten(1).any(dim=1)
    mean = before.mean(dim=0, keepdim=True).expand_as(before)
    torch.testing.assert_close(after[replaced], mean[replaced])
    return replaced.numpy()


def test_each_branch_is_left_out_as_often_as_asked_and_never_both() -> None:
    maps = random_maps(4000)
    dropped = drop_branches(maps, BOTH, seed=1, update=2, part=3)
    cnn, transformer = (left_out(maps[branch], dropped[branch]) for branch in maps)
    assert not (cnn & transformer).any()
    for found, wanted in ((cnn.mean(), BOTH.cnn), (transformer.mean(), BOTH.swin)):
        assert abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 4000)


def test_the_choice_is_that_of_seed_update_and_part_and_moves_no_other_random_number() -> None:
    maps = random_maps(64)

    def chosen(**where: int) -> bytes:
        place = {"seed": 1, "update": 2, "part": 3} | where
        return left_out(maps["cnn"], drop_branches(maps, BOTH, **place)["cnn"]).tobytes()

    state = torch.get_rng_state()
    assert chosen() == chosen()
    assert all(chosen() != chosen(**where) for where in ({"seed": 2}, {"update": 3}, {"part": 4}))
    assert torch.equal(state, torch.get_rng_state())


def test_without_it_and_with_a_single_branch_maps_stay_as_they_are() -> None:
    maps = random_maps(4)
    assert drop_branches(maps, BranchDropout(), seed=0, update=0) is maps
    alone = FeatureMaps({"cnn": maps["cnn"]})
    assert drop_branches(alone, BOTH, seed=0, update=0) is alone


@pytest.mark.parametrize(("branch", "other"), [("cnn", "swin"), ("swin", "cnn")])
def test_a_branch_that_is_always_left_out_learns_nothing_and_the_other_does(branch: str, other: str) -> None:
    recipe = load_recipe("smoke", [f"branch_dropout={{{branch}: 0.999999}}", "augmentation.mixup_alpha=0"])
    torch.manual_seed(0)
    model = CNNViTFusion(2, **recipe.model.model_dump())
    loss = Loss.from_labels(LABELS, 2, recipe.imbalance, recipe.label_smoothing)
    updater = Updater(model, build_optimizer(model, recipe), loss, recipe, Processes(0, 1, torch.device("cpu")))
    views = torch.randint(0, 256, (2, 4, 3, *recipe.model.image_size), dtype=torch.uint8)
    parts: list[BatchPart] = [(views[0], views[1], torch.tensor(LABELS))]
    updater.gradients(parts, LABELS, epoch=recipe.epochs - 1, update=0)
    norms = updater.gradient_norms()
    assert norms[branch] == 0 and norms[other] > 0 and norms["head"] > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["branch_dropout={cnn: 0.6, swin: 0.6}"], "branch_dropout: cnn and swin are 1.2 together: choose 1 or less"),
        (["branch_dropout.cnn=1"], "branch_dropout.cnn"),
        (["branch_dropout.cnn=0.5", "model.fusion=cnn"], "branch_dropout: fusion cnn has a single branch"),
    ],
)
def test_what_cannot_be_is_refused(changes: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        load_recipe("smoke", changes)


def test_the_variants_of_an_ablation_with_a_single_branch_have_none() -> None:
    recipe = load_recipe("smoke", ["branch_dropout.cnn=0.5"])
    recipes, _ = variant_recipes(recipe, ("cross_attention", "cnn"), 2)
    assert recipes["cross_attention"].branch_dropout and not recipes["cnn"].branch_dropout
    Recipe.model_validate(recipes["cnn"].model_dump())  # as a run reads it again
