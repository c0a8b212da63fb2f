"""When a goal counts as reached."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.goals import Goal

NOTHING_MEASURED: Any = None


@pytest.mark.parametrize(
    ("at_least", "value", "reached"),
    [(False, 0.21, True), (False, 0.26, False), (True, 0.24, False), (True, 0.25, True)],
)
def test_a_goal_is_reached_by_the_median_on_its_side_of_the_bound(at_least: bool, value: float, reached: bool) -> None:
    goal = Goal("a share", lambda measured: [0.0, value, 9.0], 1 / 4, at_least)
    assert goal.reached(NOTHING_MEASURED) is reached
    assert goal.stated() == ("≥ 1/4" if at_least else "≤ 1/4")


@pytest.mark.parametrize("holds", [True, False])
def test_a_goal_whose_condition_fails_is_missed_whatever_the_figure(holds: bool) -> None:
    goal = Goal("nothing lost", lambda measured: [1.0], 2.5, must=lambda measured: holds)
    assert goal.reached(NOTHING_MEASURED) is holds


@pytest.mark.parametrize(
    ("bound", "value", "found"), [(1 / 20, 0.05003, "1/19.99"), (1 / 20, 0.0499, "1/20"), (2.5, 2.5001, "2.5001")]
)
def test_a_figure_that_misses_its_bound_is_not_rounded_to_it(bound: float, value: float, found: str) -> None:
    assert Goal("a share", lambda measured: [value], bound).found(NOTHING_MEASURED) == found


def test_a_figure_at_its_bound_whose_condition_fails_is_the_bound() -> None:
    goal = Goal("nothing lost", lambda measured: [2.5], 2.5, must=lambda measured: False)
    assert goal.found(NOTHING_MEASURED) == "2.5"
