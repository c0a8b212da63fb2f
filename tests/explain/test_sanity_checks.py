"""The sanity checks of Adebayo et al. (2018): a map must change when what the model has learnt is taken away.

First the head's weights are made random, then the trunk's as well. A map's rank correlation with the trained model's
is taken over the map's cells, with its sign, and averaged over several random models and pictures: one random head can
turn a map round as well as keep it, so that only the mean must be near zero.

| method                                           | random head           | random head and trunk |
| ------------------------------------------------ | --------------------- | --------------------- |
| gradcam, hirescam, xgradcam, ablationcam,        | below 0.3             | below 0.3             |
| integrated                                       |                       |                       |
| gradcam++, layercam on maps without negative     | above 0.5: they fail, | not stated            |
| values (the demo's CNN)                          | and a note says so    |                       |
| eigencam                                         | 1: it is of no class  | below 0.3             |
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from app.explain.methods import METHODS
from app.explain.subject import Maps
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import BRANCHES, Branch
from tests.explain.subjects import Explained, demo, pictures, tiny

CONTRAST, PICTURES, SEEDS = (-1.0, 1.0), 3, 6
BOUND, FAILS = 0.3, 0.5
SANE = ("gradcam", "hirescam", "xgradcam", "ablationcam", "integrated")
MODELS = {"tiny": lambda: tiny(image_size=(256, 256)), "demo": demo}  # at 256 px the tiny maps have 64 and 256 cells
each_sane_method = pytest.mark.parametrize("method", SANE)
each_model = pytest.mark.parametrize("name", MODELS)


def made_random(module: nn.Module, seed: int) -> nn.Module:
    """The module with new weights, drawn as layers draw them, and the statistics of new norms."""
    module = deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            for parameter in part.parameters(recurse=False):
                if not hasattr(part, "reset_parameters"):
                    nn.init.normal_(parameter, std=0.02)
    return module


@cache
def trained_maps(name: str) -> list[Maps]:
    return maps_of(MODELS[name]())


def maps_of(case: Explained) -> list[Maps]:
    found = case.engine.encode(pictures(PICTURES, case.model.image_size))
    return [{branch: each[n] for branch, each in found.items()} for n in range(PICTURES)]


@cache
def random_models(name: str, with_trunk: bool) -> list[tuple[Explained, list[Maps]]]:
    """Models whose head, and trunk if asked for, has learnt nothing, and the pictures' maps in each."""
    case, made = MODELS[name](), []
    for seed in range(SEEDS):
        model = deepcopy(case.model)
        model.head = made_random(model.head, seed)
        if with_trunk:
            assert model.cnn is not None and model.swin is not None
            model.cnn, model.swin = made_random(model.cnn, seed), made_random(model.swin, seed)
        changed = Explained(model.eval(), case.reference)
        made.append((changed, maps_of(changed) if with_trunk else trained_maps(name)))
    return made


def correlation(name: str, method: str, with_trunk: bool) -> dict[Branch, float]:
    """The mean rank correlation of each branch's map with that of the trained model."""
    attribute, case = METHODS[method].attribute, MODELS[name]()
    trained = [attribute(case.subject(CONTRAST, maps)).heatmaps for maps in trained_maps(name)]
    found: dict[Branch, list[float]] = {branch: [] for branch in BRANCHES}
    for changed, of_pictures in random_models(name, with_trunk):
        for before, maps in zip(trained, of_pictures, strict=True):
            after = attribute(changed.subject(CONTRAST, maps)).heatmaps
            for branch in BRANCHES:
                found[branch].append(float(spearmanr(before[branch].ravel(), after[branch].ravel()).statistic))
    return {branch: float(np.mean(values)) for branch, values in found.items()}


@each_model
@each_sane_method
def test_with_a_random_head_maps_are_others(name: str, method: str) -> None:
    found = correlation(name, method, with_trunk=False)
    assert all(abs(value) < BOUND for value in found.values()), found


@each_model
@pytest.mark.parametrize("method", [*SANE, "eigencam"])
def test_with_a_random_head_and_trunk_maps_are_others(name: str, method: str) -> None:
    found = correlation(name, method, with_trunk=True)
    assert all(abs(value) < BOUND for value in found.values()), found


def test_a_class_agnostic_map_knows_nothing_of_the_head() -> None:
    assert correlation("demo", "eigencam", with_trunk=False) == pytest.approx({"cnn": 1, "swin": 1})


@pytest.mark.parametrize("method", ["gradcam++", "layercam"])
def test_methods_that_look_at_positive_gradients_alone_follow_the_map_whatever_the_head_says(method: str) -> None:
    assert correlation("demo", method, with_trunk=False)["cnn"] > FAILS
    assert "whatever the head" in (METHODS[method].note or "")
