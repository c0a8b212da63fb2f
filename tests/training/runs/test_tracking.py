"""What a run's log holds, and what the real wandb and TensorBoard hold of it when read back."""

from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import training.runs.tracking
from tests.support.wandb_file import OfflineRun, read_offline_runs
from training.recipe.config import Recipe
from training.runs.tracking import Log, TrackingError, WandbTracker, trackers

RECIPE = Recipe(name="tracked", seed=7)
END = {"kind": "end", "update": 30, "val": {"auroc": 0.875, "nll": 0.25}, "epochs": 2}


def update(number: int) -> dict[str, Any]:
    rate = {"cnn": 1e-4 / (number + 1), "head": 2e-4 / (number + 1)}
    norm = {"cnn": 0.1 * number, "all": 1.5 * number}
    parts = {"loss": 1 / (number + 3), "gradient_norm": norm, "rate": rate, "timing": {"seconds": 0.5}}
    return {"kind": "update", "update": number, "epoch": number // 20, "stage": "main", **parts}


def epoch(number: int) -> dict[str, Any]:
    parts = {"loss": 0.4, "val": {"nll": 0.3, "auroc": 0.8 + number / 1000}, "timing": {"seconds": 9.0}}
    return {"kind": "epoch", "update": number, "epoch": number // 20, "stage": "main", **parts}


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The names and figures that a record of one level of groups is shown under."""
    shown = {}
    for name, value in record.items():
        for inner, figure in value.items() if isinstance(value, dict) else [("", value)]:
            shown[f"{record['kind']}/{name}/{inner}".removesuffix("/")] = figure
    return {name: figure for name, figure in shown.items() if name.split("/")[1] not in {"kind", "update"}}


def overlays() -> list[tuple[str, np.ndarray]]:
    """A picture with all colours, and one so dark that whoever guesses its range brightens it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return [("malignant 0.83", pixels), ("benign 0.17", np.ones((40, 48, 3), dtype=np.uint8))]


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """A wandb that reads the environment anew: it does so once for each process that it starts."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both trackers, stopped after update 20 with its checkpoint at 10, then resumed and ended."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "offline")
        wandb.teardown()
        for start, records in ((0, [update(0), update(10), update(20)]), (10, [update(20), epoch(20), END])):
            for tracker in trackers(["wandb", "tensorboard"], folder, RECIPE, start):
                for record in records:
                    tracker.log(record)
                tracker.pictures("overlays", records[-1]["update"], overlays())
                tracker.finish()
        wandb.teardown()  # waits for its process, which writes a file's last bytes just after a run has finished
    return folder


@pytest.fixture(scope="module")
def runs(out: Path) -> list[OfflineRun]:
    return read_offline_runs(out)


def test_a_record_is_in_the_log_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    for record in (update(0), epoch(20)):
        log.write(record)
        assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1]) == record
    assert log.sync() == (tmp_path / "log.jsonl").stat().st_size
    log.close()


def test_a_resumed_log_forgets_what_came_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write(update(0))
    size = log.sync()
    log.write(update(10))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "upd')
    log = Log(path, size)
    log.write(update(10))
    assert log.sync() > size
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [update(0), update(10)]


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_log_that_is_not_the_checkpoints_is_refused_and_left_alone(tmp_path: Path, shift: int) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write(update(0))
    size = log.sync()
    log.close()
    with pytest.raises(TrackingError, match="not the log of this checkpoint"):
        Log(path, size + shift)
    assert path.stat().st_size == size


def test_a_figure_that_is_not_finite_is_null_so_that_every_reader_of_json_can_read_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.write({"kind": "update", "update": 0, "gradient_norm": {"all": float("inf")}, "loss": [float("nan"), 0.5]})
    log.close()

    def refuse(token: str) -> None:
        raise AssertionError(token)

    record = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert record["gradient_norm"] == {"all": None} and record["loss"] == [None, 0.5]


@pytest.mark.slow
def test_wandb_holds_every_loss_rate_norm_and_val_figure_in_order_over_the_updates(runs: list[OfflineRun]) -> None:
    rows = [[row for row in run.history if "overlays" not in row] for run in runs]
    assert rows[0] == [{"update": number, **flat(update(number))} for number in (0, 10, 20)]
    assert rows[1] == [{"update": record["update"], **flat(record)} for record in (update(20), epoch(20))]
    metrics = [record.metric for run in runs for record in run.records if record.HasField("metric")]
    assert {metric.glob_name: metric.step_metric for metric in metrics}["*"] == "update"


@pytest.mark.slow
def test_wandb_holds_the_pictures_as_they_are_with_their_captions(runs: list[OfflineRun]) -> None:
    for run in runs:
        (shown,) = [row["overlays"] for row in run.history if "overlays" in row]
        assert shown["captions"] == [caption for caption, _ in overlays()]
        for file, (_, rgb) in zip(shown["filenames"], overlays(), strict=True):
            assert file.endswith(".png")
            assert np.array_equal(np.asarray(Image.open(run.folder / file)), rgb)


@pytest.mark.slow
def test_wandb_shows_the_recipe_and_the_final_figures(runs: list[OfflineRun]) -> None:
    assert runs[1].config == json.loads(RECIPE.model_dump_json())
    assert (runs[1].run.project, runs[1].run.display_name) == ("fusionlens", "tracked")
    assert flat(END).items() <= runs[1].summary.items()


@pytest.mark.slow
def test_a_resumed_run_is_the_same_one_in_wandb_and_only_its_end_makes_it_a_success(runs: list[OfflineRun]) -> None:
    assert len(runs) == 2 and runs[0].run.run_id == runs[1].run.run_id
    assert all(run.run.resume for run in runs)
    assert [run.exit_code for run in runs] == [1, 0]


@pytest.mark.slow
def test_wandb_is_told_nothing_of_the_machine_and_the_code(runs: list[OfflineRun]) -> None:
    for run in runs:
        assert not run.kinds & {"environment", "stats", "output", "output_raw"}
        assert not run.run.host and not run.run.HasField("git")
        assert {file.suffix for file in run.folder.rglob("*") if file.is_file()} == {".png"}


def test_tensorboard_holds_the_same_figures_and_a_resume_hides_what_came_after_its_checkpoint(out: Path) -> None:
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    for name in ("update/loss", "update/rate/head", "update/gradient_norm/all"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(number, pytest.approx(flat(update(number))[name])) for number in (0, 10, 20)]
    assert [event.value for event in events.Scalars("epoch/val/auroc")] == [pytest.approx(0.82)]
    assert [event.value for event in events.Scalars("end/val/nll")] == [0.25]
    for place, (caption, rgb) in enumerate(overlays()):
        (event,) = events.Images(f"overlays/{place}")
        assert event.step == END["update"]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), rgb)
        assert caption in events.Tensors("overlays/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.usefixtures("fresh_wandb")
def test_tracking_does_not_disturb_the_runs_randomness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    # Not Python's own generator: the checks of array shapes that tests switch on draw from it.
    def states() -> list[Any]:
        numpy_state = np.random.get_state(legacy=False)
        assert isinstance(numpy_state, dict)
        return [torch.get_rng_state().tolist(), numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]]

    before = states()
    for tracker in trackers(["wandb", "tensorboard"], tmp_path, RECIPE, 0):
        tracker.log(update(0))
        tracker.pictures("overlays", 0, overlays())
        tracker.finish()
    assert states() == before


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_told_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself takes for "cannot be imported"
    with pytest.raises(TrackingError, match=rf"pip install 'fusionlens\[{package}\]'"):
        trackers(["wandb", "tensorboard"], tmp_path, RECIPE, 0)
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="'mlflow': choose from wandb, tensorboard"):
        trackers(["mlflow"], tmp_path, RECIPE, 0)


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_without_an_account_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(TrackingError, match=r"wandb login.*WANDB_MODE=offline"):
        WandbTracker(tmp_path, RECIPE)


def test_a_run_that_asks_for_no_tracker_needs_neither_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    fresh = runpy.run_path(str(Path(training.runs.tracking.__file__)))
    assert fresh["trackers"]([], tmp_path, RECIPE, 0) == []
