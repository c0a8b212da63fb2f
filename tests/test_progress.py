"""How far a long loop is, in a terminal and in a job's log. The clock is the test's."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest

import app.progress
from app.progress import Steps, tracked

ROOT = Path(__file__).parents[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Goes on by `step_s` at every look."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_outside_a_terminal_there_is_a_line_a_minute_with_the_rate_and_the_time_left() -> None:
    log, clock = io.StringIO(), Clock()
    with Steps("epoch 1/3 main", 1000, "updates", done=100, stream=log, clock=clock) as steps:
        for _ in range(250):
            clock.now_s += 1
            steps.update()
    lines = log.getvalue().splitlines()
    assert lines[0] == "epoch 1/3 main: 160 of 1000 updates, 1 updates/s, about 14 min left"
    assert len(lines) == 4 and "340 of 1000" in lines[3]


def test_a_step_of_many_minutes_is_told_when_it_is_done() -> None:
    log, clock = io.StringIO(), Clock()
    with Steps("val", 3, "pictures", stream=log, clock=clock) as steps:
        clock.now_s += 7200
        steps.update()
    assert log.getvalue() == "val: 1 of 3 pictures, 0.000139 pictures/s, about 4 h 00 min left\n"


def test_what_is_done_in_less_than_a_minute_is_not_told() -> None:
    log, clock = io.StringIO(), Clock()
    with Steps("val", 59, "pictures", stream=log, clock=clock) as steps:
        for _ in range(59):
            clock.now_s += 1
            steps.update()
    assert log.getvalue() == ""


def test_in_a_terminal_there_is_a_bar_and_nothing_is_left_of_it() -> None:
    terminal = Terminal()
    with Steps("val", 4, "pictures", stream=terminal) as steps:
        steps.update(4)
    assert "val: " in terminal.getvalue() and "\n" not in terminal.getvalue()


def test_a_process_that_does_not_write_shows_nothing() -> None:
    with Steps("val", 4, "pictures", stream=None) as steps:
        steps.update(4)
    assert steps.done == 4


def test_tracked_items_come_through_and_are_told_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app.progress, "INTERVAL_S", 0.0)
    assert list(tracked(iter("abc"), "letters", "letters", 3)) == list("abc")
    said = capsys.readouterr()
    assert said.out == "" and [line[:15] for line in said.err.splitlines()] == [f"letters: {n} of 3" for n in (1, 2, 3)]


def test_every_loop_that_shows_how_far_it_is_does_so_here() -> None:
    users = []
    for path in (*(ROOT / "app").rglob("*.py"), *(ROOT / "training").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            users += [path.name for name in names if name.partition(".")[0] == "tqdm"]
    assert users == ["progress.py"]
