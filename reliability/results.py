"""The page: every goal, what was measured, and whether it was met."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing import percentile
from reliability.faults import BundleReplaced, ClockJumps, RedisLost
from reliability.fleet import FleetRun
from reliability.overload import Overload
from reliability.soak import Soak
from reliability.swaps import Swaps
from reliability.uploads import UploadsReport

HEAD = """\
# Reliability

`make torture` wrote this page: real services in processes of their own, in a network of their own, under attack and
under load, while things around them break. The tiny bundle answers in milliseconds, so that many requests fit into
minutes; the demo bundle is what `make serve` serves. Figures are of one run of each part on one machine; goals that
were missed are marked.
"""
ROOT = Path(__file__).parents[1]
PAGE, RAW = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"


@dataclass(frozen=True)
class Row:
    """One goal. `met` is None where there is no goal, only a figure."""

    what: str
    goal: str
    found: str
    met: bool | None


def keep(title: str, rows: list[Row], minutes: float, order: list[str]) -> None:
    """Put a part's rows in the place of those of its last run, and write the page of all parts, in this order."""
    kept = json.loads(RAW.read_text(encoding="utf-8")) if RAW.exists() else {}
    kept[title] = {"about": about(minutes), "rows": [asdict(row) for row in rows]}
    RAW.write_text(json.dumps({name: kept[name] for name in order if name in kept}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept, order), encoding="utf-8")


def page(kept: Mapping[str, Any], order: list[str]) -> str:
    """The whole page, in Markdown."""
    lines = [HEAD.rstrip("\n")]
    for title in order:
        if title in kept:
            lines.append(
                f"\n## {title}\n\n{kept[title]['about']}\n\n| what | goal | measured | |\n| --- | --- | --- | --- |"
            )
            rows = [Row(**row) for row in kept[title]["rows"]]
            lines += [f"| {row.what} | {row.goal} | {row.found} | {_mark(row.met)} |" for row in rows]
    return "\n".join(lines) + "\n"


def about(minutes: float) -> str:
    """Where and with what this was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("openvino", "uvicorn", "pillow", "redis"))
    where = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"{date.today()}, {minutes:.0f} minutes; {where}, {packages}."


def _mark(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**missed**"


def of_uploads(found: UploadsReport) -> Iterator[Row]:
    """Rows about pictures that are none."""
    families = ", ".join(sorted(found.took_ms))
    yield Row(
        f"uploads: {families}",
        "a right answer or a 4xx problem",
        f"{len(found.wrong)} of {found.count} answered wrongly",
        not found.wrong and found.count >= 10_000,
    )
    bombs = found.bombs_ms
    yield Row(
        f"{len(bombs)} bombs, as their sender sees it",
        "< 100 ms",
        f"p99 {percentile(bombs, 99):.0f} ms, most {max(bombs):.0f} ms",
        max(bombs) < 100,
    )
    yield Row("memory at its highest, over before", "bounded", f"{found.grown_mb:+.0f} MB", None)
    yield Row(
        "honest client beside them",
        "within 2 × of alone",
        f"median {median(found.alone_ms):.1f} ms alone, {median(found.beside_ms):.1f} ms beside: "
        f"{found.slower:.2f} ×; {found.honest_lost} lost",
        found.slower <= 2 and found.honest_lost == 0,
    )


def of_overload(found: Overload, passes: int, clients: int) -> Iterator[Row]:
    """Rows about ten times more requests than there is room for."""
    yield Row(
        "load",
        "10 × capacity, open loop",
        f"capacity {found.capacity_per_s:.1f}/s, sent {found.rate_per_s:.0f}/s for {found.seconds:.0f} s, sender and "
        f"server on a core each, sender at most {found.sender_late_ms:.0f} ms late; statuses {found.statuses}",
        set(found.statuses) <= {200, 429},
    )
    yield Row("goodput ÷ capacity", "≥ 0.9", f"{found.goodput:.2f}", found.goodput >= 0.9)
    yield Row(
        "accepted, p99 inside the server",
        f"≤ deadline, {found.deadline_s:.0f} s",
        f"{found.accepted_p99_s:.2f} s",
        found.accepted_p99_s <= found.deadline_s,
    )
    yield Row(
        "refused, inside the server",
        "≤ 10 ms",
        f"median {found.refused_p50_ms:.1f} ms, p99 {found.refused_p99_ms:.1f} ms",
        found.refused_p99_ms <= 10,
    )
    yield Row("refused without `Retry-After`", "0", str(found.without_retry_after), found.without_retry_after == 0)
    yield Row("memory, last third − first third", "flat", f"{found.grown_mb:+.0f} MB", found.grown_mb < 20)
    yield Row(
        f"{clients} queued clients that hang up",
        "no work",
        f"{passes} passes of the trunk, those that had begun",
        passes <= 2,
    )


def of_swaps(found: Swaps) -> Iterator[Row]:
    """Rows about new bundles under load."""
    told = f"{len(found.errors)} in {found.swaps} swaps and {found.answers} answers"
    yield Row("errors", "0", told, not found.errors)
    yield Row("answers that are not of the version they name", "0", str(found.mixed), found.mixed == 0)
    yield Row("one swap, under load", "", f"{found.median_swap_s:.2f} s", None)
    yield Row(
        "memory after all of them",
        "flat",
        f"{found.grown_mb:+.0f} MB",
        found.grown_mb < 100 if found.swaps >= 200 else None,
    )


def of_fleet(found: FleetRun, what: str, most_lost: int) -> Row:
    """The row about restarts or the loss of replicas."""
    gone = f", {found.gone_s:.1f} s from the first lost to the last: {found.lost[:3]}" if found.lost else ""
    return Row(
        what,
        f"≤ {most_lost} lost" if most_lost else "0 lost",
        f"{len(found.lost)} of {found.requests} lost{gone}; {found.rate_per_s:.0f}/s, half of what three replicas on "
        f"these cores did; {found.restarts} restarts; median {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms",
        len(found.lost) <= most_lost,
    )


def of_soak(found: Soak) -> Iterator[Row]:
    """Rows about a long time."""
    yield Row("failed", "0", f"{found.failed} of {found.requests} in {found.minutes:g} minutes", found.failed == 0)
    for name, (first, last) in {"memory, MB": found.rss_mb, "files": found.files, "threads": found.threads}.items():
        yield Row(f"{name}: first fifth → last", "flat", f"{first:.0f} → {last:.0f}", last <= first * 1.05 + 2)


def of_faults(redis: RedisLost, disk: tuple[int, str], clock: ClockJumps, bundle: BundleReplaced) -> Iterator[Row]:
    """Rows about what breaks beside the service."""
    yield Row(
        "Redis killed for 5 s",
        "predictions go on; stored ones 503; back by itself",
        f"{redis.failed} of {redis.predictions} predictions failed, {redis.not_stored} not stored; explanation "
        f"{redis.explained_status}; stored again {redis.again_s:.2f} s after its start",
        redis.failed == 0 and redis.explained_status == 503,
    )
    yield Row(
        "no room for compiled graphs",
        "serves without",
        f"predict {disk[0]}, {disk[1].count('no room left')} warnings",
        disk[0] == 200,
    )
    yield Row(
        "wall clock + 1 day, − 1 year, home",
        "nothing lost, nothing expires early or late",
        f"{clock.failed} of {clock.predictions} predictions failed; explanations {clock.explained}, after its time "
        f"{clock.expired_status}",
        (clock.failed, {*clock.explained}, clock.expired_status) == (0, {200}, 404),
    )
    yield Row(
        "the bundle's files replaced one by one, reloads in between",
        "the old one until the new is whole",
        f"{bundle.failed} of {bundle.predictions} predictions failed; version {bundle.before}, half-copied "
        f"{bundle.half}, whole {bundle.whole}",
        bundle.failed == 0 and bundle.half == bundle.before and bundle.whole == "replaced",
    )
