"""The design of the eight runs that tell the parts of progressive unfreezing from one another."""

from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.unfreezing import EPOCHS, FACTORS, LOWER, designs, recipe_of, recipes, run_name


@pytest.mark.parametrize(("one", "other"), combinations(FACTORS, 2))
def test_any_two_factors_are_together_as_often_as_apart(one: str, other: str) -> None:
    seen = [(design[one], design[other]) for design in designs()]
    assert {pair: seen.count(pair) for pair in seen} == {(a, b): 2 for a in (False, True) for b in (False, True)}


def test_runs_differ_in_their_factors_alone() -> None:
    recipes = {run_name(design): recipe_of(design, Path("weights.pth")) for design in designs()}
    assert len(recipes) == len(designs())
    assert {sum(stage.epochs for stage in recipe.stages) for recipe in recipes.values()} == {EPOCHS}
    kept = {"stages": (), "batch_norm": "sync", "augmentation": recipes["at-once"].augmentation}
    assert len({recipe.model_copy(update=kept).model_dump_json() for recipe in recipes.values()}) == 1
    assert {recipe.augmentation.cnn for recipe in recipes.values()} == {recipes["at-once"].augmentation.cnn}


def test_the_runs_at_lower_rates_differ_from_others_in_their_rates_alone() -> None:
    all_recipes = recipes(Path("weights.pth"))
    assert len(all_recipes) == len(designs()) + len(LOWER)
    lower = all_recipes["statistics-lower"]
    assert lower.rates.cnn < all_recipes["at-once"].rates.cnn
    assert lower == recipe_of(LOWER["statistics-lower"], Path("weights.pth")).model_copy(update={"rates": lower.rates})
    kept = all_recipes["at-once-lower"].model_copy(update={"rates": all_recipes["at-once"].rates})
    assert kept == all_recipes["at-once"]
    assert lower == all_recipes["at-once-lower"].model_copy(update={"batch_norm": "frozen"})
