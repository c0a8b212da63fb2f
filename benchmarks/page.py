"""The report: docs/measured/benchmarks.md, and docs/measured/benchmarks.json with every single time.

`python -m scripts.measured_pages` writes the page again from the JSON, without measuring.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import TypeAdapter

from benchmarks.contestants import BARE_OPENVINO, COMPILED, EXPLAINED, OTHER_CAMS, OWN_CNN_MAP, THEIRS
from benchmarks.goals import GOALS, MOST_INSTALLED_MB, Measured
from benchmarks.load import Load
from benchmarks.served import CLIENTS, Served
from benchmarks.timing import Times, median_ratio

PACKAGES = (
    *("fusionlens", "openvino", "torch", "onnxruntime", "grad-cam", "captum", "torchcam", "litserve"),
    *("fastapi", "uvicorn", "numpy", "opencv-python-headless", "pillow"),
)


@dataclass(frozen=True)
class Report:
    """One run: where it was measured, with which versions, and what was found of each model.

    `busy_before` is the share of the cores in use before the run, `installed_mb` the size of a base installation.
    """

    about: Mapping[str, Any]
    busy_before: float
    installed_mb: float | None
    models: Mapping[str, Measured]


def about() -> dict[str, object]:
    """Where and with what the figures were taken."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write(report: Report, folder: Path) -> str:
    """Write both files to `folder` and return the Markdown."""
    raw = {
        "about": {**report.about, "busy_before": report.busy_before},
        "installed_mb": report.installed_mb,
        "models": {name: asdict(of_model) for name, of_model in report.models.items()},
    }
    lines = json.dumps(_rounded(raw), indent=1)
    # One list of numbers a line: there are thousands.
    lines = re.sub(r"\[\s+(-?[\d.][^\[\]{}\"]*?)\s+\]", lambda found: "".join(found[0].split()), lines)
    folder.joinpath("benchmarks.json").write_text(lines + "\n", encoding="utf-8")
    text = page(read(folder))  # of the rounded figures, so that the page can be written again from the JSON alone
    folder.joinpath("benchmarks.md").write_text(text, encoding="utf-8")
    return text


def read(folder: Path) -> Report:
    """The run that `benchmarks.json` in `folder` holds."""
    raw = json.loads(folder.joinpath("benchmarks.json").read_text(encoding="utf-8"))
    facts = dict(raw["about"])
    busy = facts.pop("busy_before")
    return Report(facts, busy, raw["installed_mb"], TypeAdapter(dict[str, Measured]).validate_python(raw["models"]))


def page(report: Report) -> str:
    """The whole report as Markdown."""
    facts, measured = dict(report.about), report.models
    versions = ", ".join(f"{name} {number}" for name, number in facts.pop("versions").items())
    first = next(iter(measured.values()))
    rounds = len(first.times[EXPLAINED].rounds_ms)
    return "\n".join(
        [
            HEAD,
            *_summary(measured),
            "",
            "## Goals",
            "",
            GOALS_HEAD,
            *_goals(measured, report.installed_mb),
            "",
            METHOD.format(rounds=rounds, load_rounds=len(first.served.predicts), **_client(measured)),
            f"Measured on {', '.join(str(fact) for fact in facts.values())}, with {versions}. "
            f"Before the run, {report.busy_before:.1%} of the cores' time was in use.",
            "",
            *(line for name, of_model in measured.items() for line in _model(name, of_model)),
            "## Plots",
            *(f"\n![{name}](benchmarks/{name}.png)" for name in ("latency", "throughput", "memory")),
            "",
        ]
    )


HEAD = """# Benchmarks

`make bench` writes this page, its plots and [benchmarks.json](benchmarks.json), which holds every single time. All
figures are of one run on one machine.

## Summary

An *explained prediction* is one picture's class probabilities together with the Grad-CAM heatmap of the fused model.
The rows below it say how many times as long the other libraries take on the same model and picture. They compute less:
one map of one layer, the CNN's last; captum gives no probabilities with it. All of them receive the picture decoded. A
ratio is the median of the ratios of the single rounds.
"""

GOALS_HEAD = """\
Every goal is a ratio with a bound. Small ratios are written as fractions, and the brackets hold the quartiles over the
rounds. Goals that were not reached are marked.
"""

METHOD = f"""## How it was measured

**In process.** The picture is drawn, a JPEG of 600 × 600 px. Every contestant runs in a process of its own. The
contestants take turns for {{rounds}} rounds, after 2 rounds of warm-up. In its turn a contestant runs twice, and the
second time counts, because by then the caches are warm. All compute in float32 with the same weights. Before anything
is timed, the logits and the CNN branch's maps of all contestants are compared. FusionLens gives the logits, both
branches' maps and their sum. `torch.compile` has its default options. Each `GET /gradcam` asks for another opacity,
because the service returns a repeated answer without computing it again.

**Over HTTP.** All servers run side by side. While one server is loaded, the others are stopped with SIGSTOP, because
idle LitServe workers poll. The servers are loaded in turn, {{load_rounds}} rounds each, after a warm-up. Each of
{CLIENTS} clients sends its next request when it has its answer. The rate is the number of answers divided by the time
to the last answer. The client is Python's `http.client` on kept-alive connections, in a process of its own; it took
{{client_ms:.1f}} ms of processor time a request, from the same cores. All servers receive the same form with the same
file. FusionLens answers `POST /gradcam?format=json&method=gradcam`, a prediction with its fused heatmap. LitServe and
FastAPI with {THEIRS} answer probabilities and a 7 × 7 map. Bare LitServe answers probabilities alone. "2 × 1" means two
workers with one thread each.
"""


def _summary(measured: Mapping[str, Measured]) -> list[str]:
    """What an explained prediction takes, and how many times as long the others take."""
    lines = [f"| | {' | '.join(measured)} |", f"| --- |{' ---: |' * len(measured)}"]
    own = [f"{m.times[EXPLAINED].median_ms:.0f} ms" for m in measured.values()]
    lines.append(f"| FusionLens, explained prediction | {' | '.join(own)} |")
    for name in (*OTHER_CAMS, BARE_OPENVINO):
        if all(name in m.times for m in measured.values()):
            medians = [m.times[name].median_ms for m in measured.values()]
            ratios = [_times_as_long(m, name) for m in measured.values()]
            cells = [f"{ratio:.2f}\u00a0× ({ms:.0f}\u00a0ms)" for ratio, ms in zip(ratios, medians, strict=True)]
            what = "bare OpenVINO forward pass, no explanation" if name == BARE_OPENVINO else f"{name}, one map"
            lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def _times_as_long(measured: Measured, contestant: str) -> float:
    return median_ratio(measured.times[contestant], measured.times[EXPLAINED])


def _goals(measured: Mapping[str, Measured], installed_mb: float | None) -> list[str]:
    lines = [f"| | goal | {' | '.join(measured)} |", f"| --- | ---: |{' --- |' * len(measured)}"]
    for goal in GOALS:
        cells = [f"{goal.found(m)}, {_verdict(goal.reached(m))}" for m in measured.values()]
        lines.append(f"| {goal.meaning} | {goal.stated()} | {' | '.join(cells)} |")
    found = "not measured" if installed_mb is None else _verdict(installed_mb <= MOST_INSTALLED_MB)
    size = "" if installed_mb is None else f"{installed_mb:.0f} MB, "
    row = f"| size of the installed base environment | ≤ {MOST_INSTALLED_MB} MB | {size}{found} |"
    return [*lines, row + " |" * (len(measured) - 1)]


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def _model(name: str, measured: Measured) -> list[str]:
    lines = [f"## {name}", "", f"| one picture | median, ms | quartiles, ms | ÷ {THEIRS} | ÷ {EXPLAINED} |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for contestant, times in measured.times.items():
        if contestant != OWN_CNN_MAP:
            ratios = f"{median_ratio(times, measured.times[THEIRS]):.3f} | {_times_as_long(measured, contestant):.2f}"
            lines.append(f"| {contestant} | {_spread(times)} | {ratios} |")
    if COMPILED not in measured.times:
        lines.append(f"| **{COMPILED} could not be timed: this machine has no C++ compiler (g++)** | | | | |")
    return [*lines, "", *_under_load(measured.served), "", *_sentences(measured), ""]


def _under_load(served: Served) -> list[str]:
    lines = [f"| {CLIENTS} clients | answers/s | p50, ms | p99, ms | lost | memory, MB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for server, loads in served.loads.items():
        lines.append(f"| {server} | {_loaded(loads)} | {served.memory_mb[server]:.0f} |")
    lines.append(f"| FusionLens, openvino, `POST /predict` | {_loaded(served.predicts)} | |")
    return [*lines, f"| FusionLens, openvino, {served.steady.wall_s:.0f} s long | {_loaded([served.steady])} | |"]


def _sentences(measured: Measured) -> list[str]:
    watched = measured.served.watched
    seen = Times(tuple(watched.watched_ms))
    starts = " and ".join(f"{times.median_ms / 1e3:.2f} s with {engine}" for engine, times in measured.starts.items())
    off = ", ".join(f"{name} {share:.0e}" for name, share in measured.off.items())
    return [
        f"While {CLIENTS} clients posted to `/predict` with a median latency of {watched.at(50):.0f} ms, "
        f"`GET /gradcam` of a stored prediction took {seen.median_ms:.0f} ms (median of {len(seen.rounds_ms)}).",
        "",
        f"`fusionlens predict PICTURE --gradcam OUT` took {starts}, from the start of the process to its end (medians "
        f"of {_count(measured)}).",
        "",
        f"Largest differences between contestants, as a share of the largest value: {off}. captum's is between its map "
        "and that of FusionLens, the others are between their logits and those of torch.",
    ]


def _count(measured: Measured) -> int:
    return len(measured.starts["torch"].rounds_ms)


def _spread(times: Times) -> str:
    low, high = times.quartiles_ms
    return f"{times.median_ms:.1f} | {low:.1f} to {high:.1f}"


def _loaded(loads: list[Load]) -> str:
    every = Load(CLIENTS, 1, 0, [taken for load in loads for taken in load.latencies_ms])
    lost = sum(len(load.lost) for load in loads)
    return f"{median(x.per_second for x in loads):.2f} | {every.at(50):.0f} | {every.at(99):.0f} | {lost}"


def _client(measured: Mapping[str, Measured]) -> dict[str, float]:
    loads = [m.served.steady for m in measured.values()]
    return {"client_ms": max(load.client_cpu_s / len(load.latencies_ms) * 1e3 for load in loads)}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3) if abs(value) >= 1 else float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
