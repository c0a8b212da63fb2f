"""What processes of `fit` are forked from: one that has imported everything, and checked their model."""

from __future__ import annotations

from tests.training.loop.small_run import CHANGES
from training import cli
from training.loop.plan import check_graphs
from training.recipe.load import load_recipe

__all__ = ["cli"]
check_graphs(load_recipe("smoke", CHANGES).model)
