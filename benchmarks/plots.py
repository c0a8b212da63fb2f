"""Three pictures of a run: latency in process, throughput against clients, and resident memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

from matplotlib import pyplot

from benchmarks.contestants import EXPLAINED, FORWARDS, GET_GRADCAM, OTHER_CAMS, POST_GRADCAM, POST_PREDICT
from benchmarks.goals import Measured
from benchmarks.served import CLIENTS, FEWER_CLIENTS

OURS, BARE, CAMS = "#1b7f5c", "#9aa5b1", "#d98e3f"
LATENCIES = {
    EXPLAINED: OURS,
    POST_GRADCAM: OURS,
    POST_PREDICT: OURS,
    GET_GRADCAM: OURS,
    **dict.fromkeys(FORWARDS, BARE),
    **dict.fromkeys(OTHER_CAMS, CAMS),
}
LINES = (OURS, BARE, CAMS, "#7a4fa3", "#3b6fb5")


def draw(measured: Mapping[str, Measured], folder: Path) -> None:
    """Write latency.png, throughput.png and memory.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, panel in (("latency", _latency), ("throughput", _throughput), ("memory", _memory)):
        figure, axes = pyplot.subplots(1, len(measured), figsize=(6 * len(measured), 4.2), squeeze=False)
        for axis, (model, of_model) in zip(axes[0], measured.items(), strict=True):
            axis.set_title(model, fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
            panel(axis, of_model)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=90)
        pyplot.close(figure)


def _latency(axis: Any, measured: Measured) -> None:
    names = [name for name in LATENCIES if name in measured.times]
    taken = [measured.times[name] for name in names]
    medians = [times.median_ms for times in taken]
    spread = [
        [times.median_ms - times.quartiles_ms[0] for times in taken],
        [times.quartiles_ms[1] - times.median_ms for times in taken],
    ]
    bars = axis.barh(names, medians, xerr=spread, color=[LATENCIES[name] for name in names], ecolor="#444")
    axis.bar_label(bars, [f"{value:.0f}" for value in medians], padding=8, fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.margins(x=0.1)
    axis.set_xlabel("ms (green: FusionLens, grey: not explained)")


def _throughput(axis: Any, measured: Measured) -> None:
    served = measured.served
    for (name, sweep), color in zip(served.sweep.items(), LINES, strict=False):
        rates = [load.per_second for load in sweep] + [median(served.rates(name))]
        axis.plot([*FEWER_CLIENTS, CLIENTS], rates, marker="o", color=color, label=name)
    axis.set_xscale("log", base=2, subs=[])
    axis.set_xticks([*FEWER_CLIENTS, CLIENTS], [str(clients) for clients in (*FEWER_CLIENTS, CLIENTS)])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("clients, each waiting for its answer (bare: no explanation)")
    axis.set_ylabel("answers a second")
    axis.legend(fontsize=8, frameon=False)


def _memory(axis: Any, measured: Measured) -> None:
    weighed = measured.served.memory_mb
    colors = [OURS if name.startswith("FusionLens") else CAMS if "grad-cam" in name else BARE for name in weighed]
    bars = axis.barh(list(weighed), list(weighed.values()), color=colors)
    axis.bar_label(bars, [f"{value:.0f}" for value in weighed.values()], padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.margins(x=0.12)
    axis.set_xlabel(f"resident MB after the rounds under {CLIENTS} clients")
