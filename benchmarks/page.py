"""The report: docs/benchmarks.md, and docs/benchmarks.json with every single time."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from benchmarks.contestants import COMPILED, EXPLAINED, OWN_CNN_MAP, THEIRS
from benchmarks.goals import GOALS, MOST_INSTALLED_MB, Measured
from benchmarks.load import Load
from benchmarks.served import CLIENTS, Served
from benchmarks.timing import Times, median_ratio

PACKAGES = (
    *("fusionlens", "openvino", "torch", "onnxruntime", "grad-cam", "captum", "torchcam", "litserve"),
    *("fastapi", "uvicorn", "numpy", "opencv-python-headless", "pillow"),
)


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


def write(measured: Mapping[str, Measured], installed_mb: float | None, busy: float, folder: Path) -> str:
    """Write both files to `folder` and return the Markdown. `busy` is the part of the cores in use before the run."""
    text = page(measured, installed_mb, busy)
    folder.joinpath("benchmarks.md").write_text(text)
    raw = {
        "about": about() | {"busy_before": busy},
        "installed_mb": installed_mb,
        "models": {name: asdict(of_model) for name, of_model in measured.items()},
    }
    lines = json.dumps(_rounded(raw), indent=1)
    # One list of numbers a line: there are thousands.
    lines = re.sub(r"\[\s+(-?[\d.][^\[\]{}\"]*?)\s+\]", lambda found: "".join(found[0].split()), lines)
    folder.joinpath("benchmarks.json").write_text(lines + "\n")
    return text


def page(measured: Mapping[str, Measured], installed_mb: float | None, busy: float) -> str:
    """The whole report as Markdown."""
    facts = about()
    versions = ", ".join(f"{name} {number}" for name, number in facts.pop("versions").items())  # type: ignore[attr-defined]
    first = next(iter(measured.values()))
    rounds = len(first.times[EXPLAINED].rounds_ms)
    return "\n".join(
        [
            HEAD.format(rounds=rounds, load_rounds=len(first.served.predicts), **_client(measured)),
            f"{', '.join(str(fact) for fact in facts.values())}; {versions}.",
            f"Before the run {busy:.0%} of the cores' time was in use.",
            "",
            "## Goals",
            "",
            *_goals(measured, installed_mb),
            "",
            *(line for name, of_model in measured.items() for line in _model(name, of_model)),
            *(f"\n![{name}](benchmarks/{name}.png)" for name in ("latency", "throughput", "memory")),
            "",
        ]
    )


HEAD = f"""# Benchmarks

`make bench` wrote this page, its plots and `benchmarks.json`, which holds every single time.

One picture (drawn, 600 × 600 px JPEG), one run. **In process**, every contestant has a process of its own and they take
turns, {{rounds}} rounds after 2 that do not count; at its turn each runs twice and the second time counts, the caches
being warm. Ratios are medians of the ratios round by round, with quartiles. All compute in float32 with the same
weights; before anything is timed, the forwards' logits and the CNN branch's map are compared. {THEIRS}, captum and
torch-cam are asked for one map of one layer, the CNN's last, which is the least work; FusionLens gives the logits, both
branches' maps and their sum. `torch.compile` has its default options. Each `GET /gradcam` asks for another opacity:
the service would give what it gave before without computing it.

**Over HTTP**, all servers stand side by side, each stopped (SIGSTOP) while another is loaded, since idle
LitServe workers poll; they are loaded in turn, {{load_rounds}} rounds, never two at once, each
after a warm-up. Each of {CLIENTS} clients sends its next request when it has its answer; the rate is all answers over
the time to the last. The client is Python's `http.client` on kept-alive connections, in a process of its own; it took
{{client_ms:.1f}} ms of a core a request, from the same cores. All are sent the same form with the same file. FusionLens
answers `POST /gradcam?format=json`, a prediction with its fused heatmap; LitServe and FastAPI with {THEIRS} answer
probabilities and a 7 × 7 map, LitServe bare probabilities alone. "2 × 1" is two workers of one thread.
"""


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
    lines = [f"## {name}", "", f"| one picture | median, ms | quartiles, ms | ÷ {THEIRS} |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for contestant, times in measured.times.items():
        if contestant != OWN_CNN_MAP:
            lines.append(f"| {contestant} | {_spread(times)} | {median_ratio(times, measured.times[THEIRS]):.3f} |")
    if COMPILED not in measured.times:
        lines.append(f"| **{COMPILED} could not be timed: this machine has no C++ compiler (g++)** | | | |")
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
        f"While {CLIENTS} clients posted to `/predict` (p50 {watched.at(50):.0f} ms), `GET /gradcam` of a stored "
        f"prediction took {seen.median_ms:.0f} ms (median of {len(seen.rounds_ms)}). `fusionlens predict PICTURE "
        f"--gradcam OUT` took {starts}, from process start to its end (medians of {_count(measured)}).",
        "",
        f"Differences as a share of the largest value: {off} (captum's map from FusionLens's, logits from torch's).",
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
        return round(value, 3)
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
