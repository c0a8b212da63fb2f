"""The report of an invented run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import page
from benchmarks.contestants import (
    BARE_OPENVINO,
    CAPTUM,
    EXPLAINED,
    FURTHER,
    GET_GRADCAM,
    OPEN_PREDICT,
    POST_GRADCAM,
    POST_PREDICT,
    THEIRS,
    TORCH_FORWARD,
    UNBOUNDED,
)
from benchmarks.goals import GOALS, Measured
from benchmarks.load import Load
from benchmarks.served import FEWER_CLIENTS, Served
from benchmarks.timing import Times

OWN, TORCH, BARE, WIDE, CAM = "FusionLens, openvino", "FusionLens, torch", "LitServe 1", "LitServe 2", "LitServe cam"
MEDIANS_MS = {
    **{EXPLAINED: 100.0, OPEN_PREDICT: 110.0, f"{FURTHER}quick": 8.0, f"{FURTHER}slow": 10.0, UNBOUNDED[0]: 90.0},
    **{POST_PREDICT: 115.0, GET_GRADCAM: 20.0, POST_GRADCAM: 120.0},
    **{TORCH_FORWARD: 180.0, BARE_OPENVINO: 95.0, THEIRS: 500.0, CAPTUM: 200.0},
}
RATES = {OWN: 10.0, TORCH: 4.0, BARE: 5.0, WIDE: 6.0, CAM: 2.0}


def times(median_ms: float) -> Times:
    return Times(tuple(median_ms * factor for factor in (0.9, 1.0, 1.1)))


def load(per_second: float, clients: int = 16, watched: tuple[float, ...] = ()) -> Load:
    taken = clients / per_second * 1e3
    return Load(clients, 4 / per_second, 0.004, [taken * 0.9, taken, taken, taken * 1.1], list(watched))


@pytest.fixture
def run() -> Measured:
    served = Served(
        own=OWN,
        own_torch=TORCH,
        lit_default=BARE,
        lit_best=WIDE,
        lit_gradcam_best=CAM,
        loads={name: [load(rate), load(rate * 1.1)] for name, rate in RATES.items()},
        predicts=[load(11.0), load(11.5)],
        sweep={name: [load(RATES[name], clients) for clients in FEWER_CLIENTS] for name in (OWN, WIDE, CAM)},
        steady=load(10.0),
        watched=load(10.0, watched=(150.0, 160.0, 170.0)),
        memory_mb={name: 400.0 if name == OWN else 1000.0 for name in RATES},
    )
    medians = {name: times(median_ms) for name, median_ms in MEDIANS_MS.items()}
    starts = {"openvino": times(900.0), "torch": times(5000.0)}
    return Measured(medians, {CAPTUM: 1e-4}, dict.fromkeys(medians, 1.0), served, starts)


def report(run: Measured, installed_mb: float | None = None) -> page.Report:
    return page.Report(page.about(), 0.01, installed_mb, {"a model": run})


def test_the_page_gives_every_goal_with_its_figure_and_verdict(run: Measured) -> None:
    text = page.page(report(run, installed_mb=451))
    rows = [line.split(" | ") for line in text.splitlines() if ", reached" in line or "**missed**" in line]
    assert [row[0].removeprefix("| ") for row in rows[:-1]] == [goal.meaning for goal in GOALS]
    figures = [row[2].partition(" ")[0].rstrip(",") for row in rows]
    assert figures == ["1/5", "1.05", "1/50", "1/25", "1.05", "5", "2", "1.67", "1/10", "1.1", "1/5.56", "1/2.5", "451"]
    assert "missed" in rows[-1][2] and all("reached" in row[2] for row in rows[:-1])


def test_the_summary_says_how_many_times_as_long_the_others_take(run: Measured) -> None:
    summary = page.page(report(run)).partition("## Goals")[0]
    assert "| FusionLens, explained prediction | 100 ms |" in summary
    assert "| pytorch-grad-cam, one map | 5.00\u00a0× (500\u00a0ms) |" in summary
    assert "| captum LayerGradCam, one map | 2.00\u00a0× (200\u00a0ms) |" in summary
    assert "| bare OpenVINO forward pass, no explanation | 0.95\u00a0× (95\u00a0ms) |" in summary


def test_the_slowest_method_that_has_a_goal_stands_for_further_explanations(run: Measured) -> None:
    assert run.slowest_further() == f"{FURTHER}slow"


def test_a_request_lost_in_the_long_run_is_a_missed_goal_and_on_the_page(run: Measured) -> None:
    lossy = replace(run, served=replace(run.served, steady=replace(run.served.steady, lost=["503"])))
    [row] = [line for line in page.page(report(lossy)).splitlines() if "nothing lost" in line]
    assert row.endswith("**missed** |")


def test_a_contestant_that_could_not_run_is_said_to_be_missing(run: Measured) -> None:
    assert "**torch.compile forward could not be timed" in page.page(report(run))


def test_the_json_holds_every_single_time(run: Measured, tmp_path: Path) -> None:
    text = page.write(report(run), tmp_path)
    stored = page.read(tmp_path)
    assert page.page(stored) == text == (tmp_path / "benchmarks.md").read_text()
    assert {"date", "machine", "python", "versions"} <= stored.about.keys()
    again = stored.models["a model"]
    for name, taken in run.times.items():
        np.testing.assert_allclose(again.times[name].rounds_ms, taken.rounds_ms, atol=1e-3)
    for name, loads in run.served.loads.items():
        for one, kept in zip(loads, again.served.loads[name], strict=True):
            np.testing.assert_allclose(kept.latencies_ms, one.latencies_ms, atol=1e-3)
    assert again.off == run.off
