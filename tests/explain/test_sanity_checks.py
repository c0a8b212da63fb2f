"""The sanity checks of Adebayo et al. (2018): a map must change when what the model has learnt is taken away.

First the head's weights are made random, then the trunk's as well. A map's rank correlation with the trained model's
is taken over the map's cells, with its sign, and averaged over random models. Only the mean must be near zero: one
random head turns a map round as often as it keeps it, and where a map has few directions, it does little else.

| method                               | random head                                       | random head and trunk |
| ------------------------------------ | ------------------------------------------------- | --------------------- |
| gradcam, hirescam, xgradcam,         | below 0.3 in magnitude                            | below 0.3             |
| integrated, ablationcam (tiny model) |                                                   |                       |
| gradcam++, layercam                  | above 0.5 for the demo's CNN, whose map has no    | not stated            |
|                                      | negative values: they fail, and their note says it|                       |
| eigencam                             | 1: it is of no class                              | below 0.7             |
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from app.explain.methods import METHODS
from app.models.feature_maps import Branch
from tests.support.bundles import BRANCHES
from tests.support.explained import Explained, demo, tiny

CONTRAST, HEADS, TRUNKS = (-1.0, 1.0), 20, 8
BOUND, EIGENCAMS_BOUND, FAILS = 0.3, 0.7, 0.5
SANE = ("gradcam", "hirescam", "xgradcam", "integrated")
MODELS: dict[str, Callable[[], Explained]] = {
    "tiny": partial(tiny, image_size=(256, 256)),
    "demo": demo,
}  # at 256 px the tiny maps have 64 and 256 cells
each_case = pytest.mark.parametrize(
    ("name", "method"),
    [*product(MODELS, SANE), ("tiny", "ablationcam")],  # which takes seconds on the demo
)


def made_random(module: nn.Module, seed: int) -> nn.Module:
    """The module with new weights, drawn as layers draw them, and the statistics of new norms."""
    module = deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in module.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
                continue
            for table in part.parameters(recurse=False):
                nn.init.normal_(table, std=0.02)
    return module


@cache
def random_models(name: str, with_trunk: bool) -> list[Explained]:
    """Models whose head, and trunk if asked for, has learnt nothing."""
    case, made = MODELS[name](), []
    for seed in range(TRUNKS if with_trunk else HEADS):
        model = deepcopy(case.model)
        model.head = made_random(model.head, seed)
        if with_trunk:
            assert model.cnn is not None and model.swin is not None
            model.cnn, model.swin = made_random(model.cnn, seed), made_random(model.swin, seed)
        made.append(Explained(model.eval(), case.baseline))
    return made


def correlation(name: str, method: str, with_trunk: bool) -> dict[Branch, float]:
    """The mean rank correlation of each branch's map with that of the trained model."""
    attribute, case = METHODS[method].attribute, MODELS[name]()
    trained = attribute(case.attribution_input(CONTRAST)).heatmaps
    found: dict[Branch, list[float]] = {branch: [] for branch in BRANCHES}
    for changed in random_models(name, with_trunk):
        maps = changed.maps if with_trunk else case.maps
        for branch, heatmap in attribute(changed.attribution_input(CONTRAST, maps)).heatmaps.items():
            found[branch].append(float(spearmanr(trained[branch].ravel(), heatmap.ravel()).statistic))
    return {branch: float(np.mean(values)) for branch, values in found.items()}


@each_case
def test_with_a_random_head_maps_are_others(name: str, method: str) -> None:
    found = correlation(name, method, with_trunk=False)
    assert all(abs(value) < BOUND for value in found.values()), found


@each_case
def test_with_a_random_head_and_trunk_maps_are_others(name: str, method: str) -> None:
    found = correlation(name, method, with_trunk=True)
    assert all(abs(value) < BOUND for value in found.values()), found


@pytest.mark.parametrize("name", MODELS)
def test_a_class_agnostic_map_knows_the_trunk_but_nothing_of_the_head(name: str) -> None:
    assert correlation(name, "eigencam", with_trunk=False) == pytest.approx({"cnn": 1, "swin": 1})
    found = correlation(name, "eigencam", with_trunk=True)
    assert all(abs(value) < EIGENCAMS_BOUND for value in found.values()), found


@pytest.mark.parametrize("method", ["gradcam++", "layercam"])
def test_methods_that_look_at_positive_gradients_alone_follow_the_map_whatever_the_head_says(method: str) -> None:
    assert correlation("demo", method, with_trunk=False)["cnn"] > FAILS
    assert "whatever the head" in (METHODS[method].note or "")
