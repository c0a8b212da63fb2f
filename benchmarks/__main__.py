"""FusionLens against others, in one run.

python -m benchmarks [--quick] writes benchmarks.md, benchmarks.json and the plots in benchmarks/ to docs/measured/.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import page, plots
from benchmarks.cases import demo_case, random_case
from benchmarks.contestants import OTHERS, fusionlens, must_agree, over_http, torch_compiled
from benchmarks.goals import Measured
from benchmarks.models import Case
from benchmarks.served import Effort, measure
from benchmarks.servers import own_server, running
from benchmarks.startup import busy_share, installed_mb, start_times
from benchmarks.turns import Group, Raced, take_turns

DOCS = Path(__file__).parents[1] / "docs" / "measured"
WHOLE = Effort(rounds=2, load_s=6, sweep_s=3, steady_s=60, watched_s=15)
MOST_BUSY = 0.1
QUICK = Effort(rounds=2, load_s=2, sweep_s=1, steady_s=5, watched_s=4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="few rounds, the demo bundle alone: does it run at all?")
    parser.add_argument("--without-install", action="store_true", help="do not measure the size of an installation")
    parser.add_argument("--out", type=Path, help="folder for the report (default docs/measured; --quick: a new one)")
    args = parser.parse_args()
    effort, rounds, starts = (QUICK, 2, 2) if args.quick else (WHOLE, 9, 3)
    out = args.out or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if args.quick else DOCS)
    began = time.monotonic()

    def say(message: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {message}", flush=True)

    busy = busy_share()
    if busy > MOST_BUSY:
        say(f"WARNING: {busy:.0%} of the cores' time is in use by others: these figures will not be worth much")
    installed = None if args.quick or args.without_install else installed_mb()
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for make in (demo_case,) if args.quick else (random_case, demo_case):
            case = make(Path(folder))
            say(case.name)
            measured[case.name] = _measured(case, effort, rounds, starts, say)
    print(page.write(page.Report(page.about(), busy, installed, measured), out))
    plots.draw(measured, out / "benchmarks")
    say(f"written to {out}")


def _measured(case: Case, effort: Effort, rounds: int, starts: int, say: Callable[[str], None]) -> Measured:
    raced = _race(case, rounds)
    for name, times in raced.times.items():
        say(f"{name}: {times.median_ms:.1f} ms")
    return Measured(
        raced.times, must_agree(raced.answers), raced.build_s, measure(case, effort, say), start_times(case, starts)
    )


def _race(case: Case, rounds: int) -> Raced:
    """All contestants in process, and FusionLens over HTTP beside them."""
    others = OTHERS
    if shutil.which("g++") is None:
        others = tuple(other for other in OTHERS if other is not torch_compiled)
    with running(own_server(case, "openvino")) as own:
        groups = [Group(fusionlens, (case,)), Group(over_http, (case, own.address))]
        return take_turns([*groups, *(Group(other, (case,)) for other in others)], rounds)


if __name__ == "__main__":
    main()
