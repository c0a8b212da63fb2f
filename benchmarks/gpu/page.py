"""The page of the benchmarks on a GPU, as the JSON beside it gives it, also where sections are missing.

It imports nothing that must be installed, since `benchmarks.gpu` writes it wherever that is started.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from benchmarks.timing import ratio_of_rounds

Figures = Mapping[str, Any]
HEAD = """# Benchmarks on a GPU

`python -m benchmarks.gpu` writes this page and [benchmarks-gpu.json](benchmarks-gpu.json), which holds every round.
"""
NO_GPU = "**This was not measured on a GPU.** It shows that the program works, at tiny sizes. No figure means anything."
TINY = "**This was measured at tiny sizes**, which show that the program works. No figure means anything."
MIB = 2**20


def read_page(folder: Path) -> str:
    """The page that `benchmarks-gpu.json` in `folder` gives."""
    return page(json.loads((folder / "benchmarks-gpu.json").read_text(encoding="utf-8")))


def page(document: Figures) -> str:
    """The report as Markdown. `document` is the content of the JSON file."""
    parts = [HEAD]
    if document["device"] != "cuda":
        parts.append(_wrapped(NO_GPU))
    elif document["effort"] != "full":
        parts.append(_wrapped(TINY))
    parts.append(_machine(document["sections"].get("machine", {}).get("figures", {})))
    for name, (title, words, tables) in SECTIONS.items():
        parts.append(f"## {title}\n\n{_wrapped(words)}")
        parts += _section(document["sections"].get(name), tables)
    return "\n".join(parts).rstrip() + "\n"


def _section(section: Figures | None, tables: Callable[[Figures], list[str]]) -> list[str]:
    if section is None:
        return ["**Not measured.**\n"]
    parts = [] if (sentence := _status(section)) is None else [_wrapped(f"**{sentence}**")]
    parts += tables(section["figures"])
    for of in dict.fromkeys(check["of"] for check in section["checks"]):
        parts.append(_checks(of, [check for check in section["checks"] if check["of"] == of]))
    return parts + [_wrapped(f"Not measured: {sentence}.") for sentence in section["skipped"]]


def _status(section: Figures) -> str | None:
    return {
        "failed": f"This section failed: {section.get('why')}. What follows was found before.",
        "stopped": "This section took longer than its time and was stopped. What follows was found before.",
        "not begun": "This section was not begun, since the time for everything was over.",
    }.get(section["status"])


def _machine(figures: Figures) -> str:
    if "device" not in figures:
        return "The machine is not known.\n"
    gpu = ""
    if "memory_gb" in figures:
        gpu = f" with {figures['memory_gb']} GB, compute capability {figures['capability']}, driver {figures['driver']}"
        gpu += f", CUDA {figures['cuda']}"
    packages = ", ".join(f"{name} {number or 'not installed'}" for name, number in figures["packages"].items())
    return _wrapped(
        f"Measured on {figures['date']} on {figures['device']}{gpu}; {figures['cores']} CPU cores, Python "
        f"{figures['python']}, FusionLens {figures['fusionlens']}, {packages}."
    )


def _checks(of: str, checks: Sequence[Figures]) -> str:
    rows = [
        (one["name"], f"{one['found']:.2g}", f"{one['bound']:g}", "holds" if one["holds"] else "**does not hold**")
        for one in checks
    ]
    return _table((of or "check", "found", "at most", ""), rows, "-::-")


def _serving(figures: Figures) -> list[str]:
    parts, rows = list[str](), figures.get("rows", [])
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        batches = sorted({row["batch"] for row in of_model})
        rates = {(row["way"], row["batch"]): row["batch"] / median(row["times_ms"]) * 1e3 for row in of_model}
        best = {batch: max(rate for (_, size), rate in rates.items() if size == batch) for batch in batches}
        table = []
        for way in dict.fromkeys(row["way"] for row in of_model):
            error, made_s = (max(row[name] for row in of_model if row["way"] == way) for name in ("error", "made_s"))
            cells = [_rate(rates.get((way, batch)), best[batch]) for batch in batches]
            table.append((way, *cells, f"{error:.1g}", f"{made_s:.1f}"))
        head = ("pictures/s in batches of", *map(str, batches), "error", "made in, s")
        parts += [f"### {model}\n", _table(head, table, "-" + ":" * (len(batches) + 2))]
    return parts


def _rate(rate: float | None, best: float) -> str:
    if rate is None:
        return ""
    return f"**{rate:.0f}**" if rate == best else f"{rate:.0f}"


def _explaining(figures: Figures) -> list[str]:
    parts, rival = list[str](), figures.get("rival", "")
    for model, times_ms in figures.get("times_ms", {}).items():
        theirs = times_ms.get(rival)
        rows = [
            (name, f"{median(taken):.2f}", "" if theirs is None else f"{ratio_of_rounds(taken, theirs):.3f}")
            for name, taken in times_ms.items()
        ]
        parts += [f"### {model}\n", _table(("", "median, ms", f"÷ {rival}"), rows, "-::")]
    return parts


def _fitting(figures: Figures) -> list[str]:
    rounds = {precision: rows for precision, rows in figures.get("rounds", {}).items() if rows}
    if not rounds:
        return []
    facts, table = figures["facts"], []
    for precision, rows in rounds.items():
        fit, plain = ([row[name] for row in rows] for name in ("fit_images_per_s", "plain_images_per_s"))
        ratio, waiting = ratio_of_rounds(fit, plain), median(row["waiting_share"] for row in rows)
        reached = "reached" if ratio >= facts["goal"] else "**missed**"
        cells = (f"{median(fit):.0f}", f"{median(plain):.0f}", f"{ratio:.3f}, {reached}", f"{waiting:.1%}")
        table.append((precision, *cells))
    tf32 = "with" if facts["tf32_convolutions"] else "without"
    sentence = (
        f"Epochs have {facts['epoch_pictures']} pictures in batches of {facts['batch_size']}. Processes that load "
        f"them: {facts['workers']}. Convolutions of fp32 are computed {tf32} TF32, as torch does by default."
    )
    goal = f"`fit` ÷ plain loop (goal ≥ {facts['goal']})"
    head = ("", "`fit`, pictures/s", "plain loop, pictures/s", goal, "waiting for data")
    return [_wrapped(sentence), _table(head, table, "-::-:")]


def _stages(figures: Figures) -> list[str]:
    rows = []
    for row in figures.get("rows", []):
        peak, estimate = row["peak_bytes"], row["estimated_bytes"]
        measured = ("not measured", "") if peak is None else (f"{peak / MIB:,.0f}", f"{peak / estimate:.2f}")
        update_ms = f"{median(row['times_ms']):.1f}"
        rows.append((row["precision"], row["stage"], f"{estimate / MIB:,.0f}", *measured, update_ms))
    head = ("", "stage", "estimate for fp32, MiB", "largest, MiB", "÷ estimate", "update, ms")
    return [f"Updates have {figures['batch_size']} pictures.\n", _table(head, rows, "--::::")] if rows else []


def _resuming(figures: Figures) -> list[str]:
    parts, rows = list[str](), list[tuple[str, ...]]()
    for epoch in figures.get("epochs", []):
        timing = epoch["timing"]
        rates = (f"{timing['images_per_s']:.0f}", f"{timing['waiting_share']:.1%}")
        rows.append((epoch["stage"], f"{epoch['loss']:.4f}", *rates))
    if rows:
        parts.append(_table(("stage", "loss", "pictures/s", "waiting for data"), rows, "-:::"))
    if updates := figures.get("updates"):
        parts.append(f"The run was killed after update {updates['killed_after']} of {updates['whole']}.\n")
    return parts


def _exporting(figures: Figures) -> list[str]:
    return [f"The bundle was written in {figures['export_s']:.1f} s.\n"] if "export_s" in figures else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """A table in Markdown. `alignment` has a sign for each column: `-` for the left side, `:` for the right."""
    lines = [head, ["---:" if side == ":" else "---" for side in alignment], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _wrapped(words: str) -> str:
    return fill(words, 120, break_long_words=False, break_on_hyphens=False) + "\n"


# Of each section: its title, what it measures, and its tables.
SECTIONS: Mapping[str, tuple[str, str, Callable[[Figures], list[str]]]] = {
    "engine": (
        "The engine",
        "The torch engine on the device, compared with the CPU. Errors are shares of the largest expected value, if "
        "nothing else is said. float32 is without TF32.",
        lambda figures: [],
    ),
    "serving": (
        "Served pictures",
        "From 8-bit pictures in the memory of the process to feature maps and logits there. The first way is the "
        "engine's own. The fastest way for each batch is set in bold. The error is that of the logits against float32 "
        "on the CPU, as a share of the largest.",
        _serving,
    ),
    "explaining": (
        "Explained predictions",
        "An *explained prediction* is the probabilities of a decoded picture and the Grad-CAM heatmap of the "
        "fused model. pytorch-grad-cam gives one map of one layer, the CNN's last. Ratios are medians of the ratios of "
        "single rounds.",
        _explaining,
    ),
    "fitting": (
        "The speed of training",
        "`fit` and a plain loop of timm and torch take turns, an epoch each, as on [the page of training]"
        "(benchmarks-training.md). Everything trains.",
        _fitting,
    ),
    "stages": (
        "The stages of `progressive`",
        "The largest memory that torch allocated in a stage, against the estimate of `fusionlens-train plan`, and the "
        "time of an update of a batch that is there already.",
        _stages,
    ),
    "resuming": (
        "Resuming",
        "`fit progressive` from random weights, an epoch of each stage: once without interruption, and once with a "
        "SIGKILL and `--resume`. Weights are compared to the bit.",
        _resuming,
    ),
    "exporting": ("Export", "The bundle of that run, written on the machine with the device.", _exporting),
}
