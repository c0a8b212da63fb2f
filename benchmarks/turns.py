"""Contestants that do not share a process: each group has its own, and they run in turn.

In one process the idle threads of one library (OpenMP's and ONNX Runtime's spin for a while) would take the cores
from the next, and imports of one would change what another does.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks.timing import Times

Runs = Mapping[str, Callable[[], object]]
PAUSE_S = 0.3  # for the threads of the last contestant to fall asleep: those of OpenMP wait for 0.2 s


@dataclass(frozen=True)
class Group:
    """Contestants of one process: `build(*arguments)` is called there and returns what is timed, by name."""

    build: Callable[..., Runs]
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Raced:
    """Every contestant's times, what each returned at its first run, and how long its group took to build, in s."""

    times: dict[str, Times]
    answers: dict[str, object]
    build_s: dict[str, float]


def take_turns(groups: Sequence[Group], rounds: int, warmups: int = 2) -> Raced:
    """Time every contestant once a round, each in its group's process; the first `warmups` rounds do not count.

    At its turn a contestant runs twice and the second run counts, so that all are timed with their own caches warm.
    Raises RuntimeError with the traceback of a group that fails.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of what is imported here
    ends: dict[str, Connection] = {}
    processes: list[BaseProcess] = []
    build_s: dict[str, float] = {}
    try:
        for group in groups:
            end, other = context.Pipe()
            processes.append(context.Process(target=_serve_turns, args=(group, other), daemon=True))
            processes[-1].start()
            other.close()
            built_in_s, names = _answer(end)
            ends |= dict.fromkeys(names, end)
            build_s |= dict.fromkeys(names, built_in_s)
        answers = {name: _ask(end, (name, True))[1] for name, end in ends.items()}
        taken: dict[str, list[float]] = {name: [] for name in ends}
        for number in range(warmups + rounds):
            for name, end in ends.items():
                time.sleep(PAUSE_S)
                took_ms, _ = _ask(end, (name, False))
                if number >= warmups:
                    taken[name].append(took_ms)
        return Raced({name: Times(tuple(values)) for name, values in taken.items()}, answers, build_s)
    finally:
        for end in set(ends.values()):
            end.close()
        for process in processes:
            process.join(5)
            process.kill()


def _serve_turns(group: Group, end: Connection) -> None:
    """The process of a group: builds it, then runs what it is asked to until the other end is closed."""
    try:
        began = time.perf_counter()
        runs = group.build(*group.arguments)
        end.send((time.perf_counter() - began, tuple(runs)))
        while True:
            name, show = end.recv()
            answer = runs[name]()
            began = time.perf_counter()
            runs[name]()
            took_ms = (time.perf_counter() - began) * 1e3
            end.send((took_ms, answer if show else None))
    except EOFError:
        return
    except BaseException:
        end.send(traceback.format_exc())
        raise


def _ask(end: Connection, question: tuple[str, bool]) -> tuple[float, Any]:
    end.send(question)
    return _answer(end)


def _answer(end: Connection) -> tuple[float, Any]:
    """Seconds or milliseconds taken, and what was asked for."""
    received = end.recv()
    if isinstance(received, str):
        raise RuntimeError(f"a contestant failed:\n{received}")
    taken, answer = received
    return taken, answer
