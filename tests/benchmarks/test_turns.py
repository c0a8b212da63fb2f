"""Timing: who runs when, and what is made of the times."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.timing import Times, interleaved, percentile
from benchmarks.turns import Group, Runs, take_turns


def note_turns(folder: Path, names: tuple[str, ...]) -> Runs:
    """Contestants that write down when they run."""

    def run(name: str) -> int:
        with (folder / "turns").open("a") as log:
            log.write(f"{name} {os.getpid()}\n")
        return os.getpid()

    return {name: partial(run, name) for name in names}


def fail_to_build() -> Runs:
    raise ValueError("no such model")


def test_contestants_alternate_and_groups_share_no_process(tmp_path: Path) -> None:
    raced = take_turns([Group(note_turns, (tmp_path, ("a", "b"))), Group(note_turns, (tmp_path, ("c",)))], 2, warmups=1)
    turns = [line.split() for line in (tmp_path / "turns").read_text().splitlines()]
    # Each runs twice at its turn: once to be looked at, once in the warm-up, then twice for the rounds that count.
    assert [name for name, _ in turns] == list("aabbcc") * 4
    assert raced.answers["a"] == raced.answers["b"] != raced.answers["c"]
    assert {name: len(times.rounds_ms) for name, times in raced.times.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_contestant_that_cannot_be_built_stops_the_race_and_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        take_turns([Group(fail_to_build, ())], 1)


def test_warm_up_rounds_do_not_count() -> None:
    calls: list[str] = []
    times = interleaved({"x": lambda: calls.append("x"), "y": lambda: calls.append("y")}, rounds=3, warmups=2)
    assert calls == ["x", "y"] * 5
    assert len(times["x"].rounds_ms) == 3


@pytest.mark.parametrize("percent", [0, 25, 50, 99, 100])
def test_percentiles_are_numpys(percent: float) -> None:
    values = np.random.default_rng(0).exponential(size=57).tolist()
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert Times(tuple(values)).quartiles_ms == pytest.approx(tuple(np.percentile(values, [25, 75])))
