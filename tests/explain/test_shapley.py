"""What branches are worth: values that add up, and that are what they must be where branches do not interact."""

from __future__ import annotations

import numpy as np
import pytest

from app.explain.integrated import integrated_gradients
from app.explain.shapley import shapley_values
from app.models.cnnswin import Fusion
from tests.support.bundles import BRANCHES
from tests.support.explained import MODELS, Explained, model_called, tiny

CONTRAST = (-1.0, 1.0)


def score(case: Explained, present: tuple[str, ...]) -> float:
    """The score with only these branches there."""
    maps = {branch: (case.maps if branch in present else case.baseline)[branch][None] for branch in case.maps}
    return float(case.attribution_input(CONTRAST).score.values(maps)[0])


@pytest.mark.parametrize("name", MODELS)
def test_values_add_up_to_what_the_picture_changes(name: str) -> None:
    case = model_called(name)
    found = shapley_values(case.attribution_input(CONTRAST))
    assert found.score == pytest.approx(score(case, BRANCHES), abs=1e-5)
    assert found.baseline_score == pytest.approx(score(case, ()), abs=1e-5)
    assert found.by_branch.keys() == case.maps.keys()
    assert sum(found.by_branch.values()) == pytest.approx(found.score - found.baseline_score, abs=1e-6)


@pytest.mark.parametrize("fusion", ["cross_attention", "concat"])
def test_a_value_is_the_mean_of_what_a_branch_adds_first_and_last(fusion: Fusion) -> None:
    case = tiny(fusion)
    first, last = score(case, ("cnn",)) - score(case, ()), score(case, BRANCHES) - score(case, ("swin",))
    assert abs(first - last) > 1e-4  # the branches interact
    assert shapley_values(case.attribution_input(CONTRAST)).by_branch["cnn"] == pytest.approx(
        (first + last) / 2, abs=1e-6
    )


def test_where_branches_do_not_interact_a_value_is_the_sum_of_integrated_gradients() -> None:
    picture = tiny("late").attribution_input(CONTRAST)
    values, heatmaps = shapley_values(picture).by_branch, integrated_gradients(picture).heatmaps
    for branch in BRANCHES:
        assert values[branch] == pytest.approx(float(heatmaps[branch].sum()), abs=1e-5)


def test_where_branches_interact_both_figures_differ() -> None:
    picture = tiny().attribution_input(CONTRAST)
    values, heatmaps = shapley_values(picture).by_branch, integrated_gradients(picture).heatmaps
    assert abs(values["cnn"] - float(heatmaps["cnn"].sum())) > 0.05 * abs(values["cnn"])


def test_a_branch_that_is_as_usual_is_worth_nothing() -> None:
    case = tiny()
    values = shapley_values(case.attribution_input(CONTRAST, {**case.maps, "swin": case.baseline["swin"]})).by_branch
    assert values["swin"] == pytest.approx(0, abs=1e-7)
    assert abs(values["cnn"]) > 1e-3
    assert np.isfinite(values["cnn"])
