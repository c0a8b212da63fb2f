"""The page: every goal, what was measured, and whether it was met.

`python -m scripts.measured_pages` writes the page again from the JSON, without measuring.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing import percentile
from reliability.attacks import Beside
from reliability.costs import Cost, Price
from reliability.faults import BundleReplaced, ClockJumps, RedisLost
from reliability.fleet import FleetRun
from reliability.overload import Overload
from reliability.protocol import Busy
from reliability.soak import Soak
from reliability.swaps import Swaps
from reliability.uploads import UploadsReport

HEAD = """\
# Reliability

`make torture` writes this page and [reliability.json](reliability.json). It starts real services in processes of their
own, in a network namespace of their own, and attacks, overloads, restarts and kills them. A tiny bundle, which answers
in milliseconds, is served where many requests have to fit into minutes; the overload test serves the demo bundle. All
figures are of one run of each part on one machine. Goals that were not met are marked.
"""
FOLDER = Path(__file__).parents[1] / "docs" / "measured"


@dataclass(frozen=True)
class Row:
    """One goal. `met` is None where there is no goal, only a figure."""

    what: str
    goal: str
    found: str
    met: bool | None


def keep(title: str, rows: list[Row], minutes: float, order: list[str]) -> None:
    """Put a part's rows in the place of those of its last run, and write the page of all parts, in this order."""
    raw = FOLDER / "reliability.json"
    kept = json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else {}
    kept[title] = {"about": about(minutes), "rows": [asdict(row) for row in rows]}
    raw.write_text(json.dumps({name: kept[name] for name in order if name in kept}, indent=1) + "\n", encoding="utf-8")
    (FOLDER / "reliability.md").write_text(read_page(FOLDER), encoding="utf-8")


def read_page(folder: Path) -> str:
    """The page that `reliability.json` in `folder` gives, its parts in the order of that file."""
    return page(json.loads((folder / "reliability.json").read_text(encoding="utf-8")))


def page(kept: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    lines = [HEAD.rstrip("\n")]
    for title, part in kept.items():
        lines.append(f"\n## {title}\n\n{part['about']}\n\n| what | goal | measured | |\n| --- | --- | --- | --- |")
        rows = [Row(**row) for row in part["rows"]]
        lines += [f"| {row.what} | {row.goal} | {row.found} | {_mark(row.met)} |" for row in rows]
    return "\n".join(lines) + "\n"


def about(minutes: float) -> str:
    """Where and with what this was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("openvino", "uvicorn", "pillow", "redis"))
    where = f"{os.cpu_count()} cores of {platform.machine()}, with Python {platform.python_version()}"
    took = "less than a minute" if minutes < 0.5 else f"about {minutes:.0f} minute{'s' if minutes >= 1.5 else ''}"
    return f"Measured on {date.today()}; it took {took} on {where}, {packages}."


def _mark(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**missed**"


def of_uploads(found: UploadsReport) -> Iterator[Row]:
    """Rows about pictures that are none."""
    families = ", ".join(sorted(found.took_ms))
    yield Row(
        f"uploads of these kinds: {families}",
        "a right answer or a 4xx problem",
        f"{len(found.wrong)} of {found.count} answered wrongly",
        not found.wrong and found.count >= 10_000,
    )
    bombs = found.bombs_ms
    yield Row(
        f"{len(bombs)} bombs, time to the answer as the sender sees it",
        "< 100 ms",
        f"p99 {percentile(bombs, 99):.0f} ms, maximum {max(bombs):.0f} ms",
        max(bombs) < 100,
    )
    yield Row("peak memory, above what the process used before", "bounded", f"{found.grown_mb:+.0f} MB", None)
    yield Row(
        "honest client at the same time",
        "at most 2 × its time alone",
        f"median {median(found.alone_ms):.1f} ms alone, {median(found.beside_ms):.1f} ms during the attack: "
        f"{found.slower:.2f} ×; {found.honest_lost} lost",
        found.slower <= 2 and found.honest_lost == 0,
    )


def of_price(found: Price) -> Row:
    """A row about what an honest picture pays."""
    return Row(
        "an honest picture, decoded in a process of its own instead of in the service",
        "≤ 2 ms more",
        f"{median(found.there_ms):.1f} ms instead of {median(found.here_ms):.1f} ms, medians of {len(found.here_ms)}; "
        f"an idle process takes {found.idle_mb:.0f} MB",
        found.more_ms <= 2,
    )


def of_costs(found: Mapping[str, Cost]) -> Iterator[Row]:
    """Rows about the cost of single uploads."""
    for what, unit, goal, costs in (
        ("most processor time that one upload costs", "s", 2.5, {name: one.cpu_s for name, one in found.items()}),
        ("most memory that one adds to the service", "MB", 64, {name: one.service_mb for name, one in found.items()}),
        ("most memory of the process that decodes", "MB", 768, {name: one.decoder_mb for name, one in found.items()}),
    ):
        name = max(costs, key=lambda one: costs[one])
        sizes = f"{len(costs)} hostile uploads of at most {max(one.size for one in found.values()) / 1e3:.0f} kB"
        measured = f"{costs[name]:.2f} {unit} ({name})"
        yield Row(f"{sizes}: {what}", f"≤ {goal:g} {unit}", measured, costs[name] <= goal)


def of_beside(found: Mapping[str, Beside]) -> Iterator[Row]:
    """Rows about an honest client beside each attack."""
    for name, one in found.items():
        yield Row(
            f"attack at full speed: {name}",
            "honest client: ≥ 95 % answered, median ≤ 3 × alone; /health/live p99 ≤ 100 ms; over after ≤ 5 s; no 5xx",
            f"{one.answered:.0%} answered, {one.slower:.2f} × its {median(one.alone_ms):.0f} ms; "
            f"{one.health_p99_ms:.0f} ms; {one.recovered_s:.1f} s; {one.failures} of {one.sent} answers 5xx",
            one.answered >= 0.95
            and one.slower <= 3
            and one.health_p99_ms <= 100
            and one.recovered_s <= 5
            and not one.failures,
        )


def of_statuses(what: str, found: Counter[int]) -> Row:
    """A row about answers that may be anything but a failure of the service."""
    failures = sum(count for status, count in found.items() if status >= 500 or status == 0)
    counts = ", ".join(f"{count} × {status}" for status, count in sorted(found.items()))
    return Row(f"{found.total()} {what}", "0 × 5xx or no answer", f"{failures} ({counts})", failures == 0)


def of_waits(found: Mapping[str, Busy]) -> Row:
    """A row about how long the event loop is busy with one request, to a service without keys."""
    name = max(found, key=lambda one: found[one].longest_ms)
    wait_ms = found[name].longest_ms
    what = f"{len(found)} requests of at most 20 MB: longest wait of /health/live beside one"
    return Row(what, "≤ 50 ms", f"{wait_ms:.0f} ms ({name})", wait_ms <= 50)


def of_memory(found: Mapping[str, Busy]) -> Row:
    """A row about the memory that one request without a key takes, of a service with keys."""
    name = max(found, key=lambda one: found[one].grown_mb)
    grown_mb = found[name].grown_mb
    return Row("the same without a key: most memory", "≤ 16 MB", f"{grown_mb:.1f} MB ({name})", grown_mb <= 16)


def of_idle(found: Mapping[str, tuple[int, int]], connections: int, files: int) -> Iterator[Row]:
    """Rows about probes beside connections that are held for nothing."""
    for name, (answered, probes) in found.items():
        what = f"{connections} connections of one address {name}, and a service that may open {files} files: probes"
        yield Row(what, "all answered", f"{answered} of {probes}", answered == probes)


def of_fuzzed(found: Counter[str]) -> Row:
    """A row about requests that are none."""
    failures = sum(count for outcome, count in found.items() if outcome == "broken" or outcome.startswith("5"))
    counts = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(found.items()))
    connections = found["closed"] + found["silent"]
    return Row(
        f"{connections} connections with requests put together at random",
        "0 × 5xx, or no HTTP",
        f"{failures} ({counts})",
        failures == 0,
    )


def of_overload(found: Overload, passes: int, clients: int) -> Iterator[Row]:
    """Rows about ten times more requests than there is room for."""
    yield Row(
        "load",
        "10 × capacity, open loop",
        f"capacity {found.capacity_per_s:.1f}/s, sent {found.rate_per_s:.0f}/s for {found.seconds:.0f} s, sender "
        f"and server on a core each, requests sent at most {found.sender_late_ms:.0f} ms late; "
        f"statuses {found.statuses}",
        set(found.statuses) <= {200, 429},
    )
    yield Row("goodput ÷ capacity", "≥ 0.9", f"{found.goodput:.2f}", found.goodput >= 0.9)
    yield Row(
        "accepted requests, p99 inside the server",
        f"≤ deadline, {found.deadline_s:.0f} s",
        f"{found.accepted_p99_s:.2f} s",
        found.accepted_p99_s <= found.deadline_s,
    )
    yield Row(
        "refused requests, time inside the server",
        "≤ 10 ms",
        f"median {found.refused_p50_ms:.1f} ms, p99 {found.refused_p99_ms:.1f} ms",
        found.refused_p99_ms <= 10,
    )
    yield Row("refusals without `Retry-After`", "0", str(found.without_retry_after), found.without_retry_after == 0)
    yield Row(
        "memory, median of the last third less that of the first",
        "flat",
        f"{found.grown_mb:+.0f} MB",
        found.grown_mb < 20,
    )
    yield Row(
        f"work done for {clients} queued clients that hang up",
        "at most 2 passes of the trunk, which had begun",
        f"{passes} passes of the trunk",
        passes <= 2,
    )


def of_swaps(found: Swaps) -> Iterator[Row]:
    """Rows about new bundles under load."""
    told = f"{len(found.errors)} in {found.swaps} swaps and {found.answers} answers"
    yield Row("errors", "0", told, not found.errors)
    yield Row("answers that are not from the version that they name", "0", str(found.mixed), found.mixed == 0)
    yield Row("time of one swap under load, median", "", f"{found.median_swap_s:.2f} s", None)
    yield Row(
        "memory growth after all swaps",
        "flat",
        f"{found.grown_mb:+.0f} MB",
        found.grown_mb < 100 if found.swaps >= 200 else None,
    )


def of_fleet(found: FleetRun, what: str, goal: str) -> Row:
    """The row about restarts or the loss of replicas."""
    gone = f", {found.gone_s:.1f} s from the first lost to the last: {found.lost[:3]}" if found.lost else ""
    in_flight = f" ({found.lost_in_flight} of {found.in_flight} in flight at the kill)" if found.in_flight else ""
    restarts = f"{found.restarts} {'restart' if found.restarts == 1 else 'restarts'}"
    return Row(
        what,
        goal,
        f"{len(found.lost)} of {found.requests} lost{in_flight}{gone}; {found.rate_per_s:.0f}/s, half of the capacity "
        f"of three replicas on these cores; {restarts}; median {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms",
        len(found.lost) == found.lost_in_flight,
    )


def of_soak(found: Soak) -> Iterator[Row]:
    """Rows about a long time."""
    yield Row(
        "failed requests", "0", f"{found.failed} of {found.requests} in {found.minutes:g} minutes", found.failed == 0
    )
    watched = {"memory, MB": found.rss_mb, "open files": found.files, "threads": found.threads}
    for name, (first, last) in watched.items():
        medians = f"{name}: median of the first fifth → of the last fifth"
        yield Row(medians, "flat", f"{first:.0f} → {last:.0f}", last <= first * 1.05 + 2)


def of_faults(redis: RedisLost, disk: tuple[int, str], clock: ClockJumps, bundle: BundleReplaced) -> Iterator[Row]:
    """Rows about what breaks beside the service."""
    yield Row(
        "Redis killed for 5 s",
        "predictions go on, stored ones answer 503, it recovers by itself",
        f"{redis.failed} of {redis.predictions} predictions failed, {redis.not_stored} not stored; explanations "
        f"answered {redis.explained_status}; stored again {redis.again_s:.2f} s after Redis's start",
        redis.failed == 0 and redis.explained_status == 503,
    )
    yield Row(
        "no disk space for compiled graphs",
        "it serves without the cache",
        f"predict {disk[0]}, {disk[1].count('no room left')} warnings",
        disk[0] == 200,
    )
    yield Row(
        "wall clock set forward 1 day, back 1 year, and right again",
        "nothing is lost, nothing expires early or late",
        f"{clock.failed} of {clock.predictions} predictions failed; statuses of explanations "
        f"{clock.explained}, after the expiry {clock.expired_status}",
        (clock.failed, {*clock.explained}, clock.expired_status) == (0, {200}, 404),
    )
    yield Row(
        "the bundle's files replaced one by one, with reloads in between",
        "it serves the old bundle until the new one is complete",
        f"{bundle.failed} of {bundle.predictions} predictions failed; version served: before {bundle.before}, "
        f"half-copied {bundle.half}, complete {bundle.whole}",
        bundle.failed == 0 and bundle.half == bundle.before and bundle.whole == "replaced",
    )
