"""The best epoch on val: kept if that is wanted, and waited for; exactly so after a run was resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.training.loop.small_run import RECIPE
from tests.training.loop.test_resume import same
from training.cli import main
from training.data.draw import draw_dataset
from training.export.export import CHOSEN_ON_VAL


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best") / "data"
    draw_dataset(folder, 32, seed=5)
    return folder


def fit(data: Path, out: Path, *changes: str, resume: bool = False) -> int:
    settings = [word for change in ("workers=0", "keep_checkpoints=99", *changes) for word in ("-s", change)]
    return main(["fit", *RECIPE, *settings, "--data", str(data), "--out", str(out), *["--resume"] * resume])


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.slow
def test_the_best_epoch_is_kept_also_by_a_run_that_was_resumed(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rates that undo what was learned, so that the best epoch is not the last.
    changes = ("keep=best", "stages=[{name: all, epochs: 4}]", "warmup_share=0", "rates.head=0.03", "ema_decay=0")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert fit(drawn, whole, *changes) == 0
    said = capsys.readouterr().out
    scores = [record["val"]["auroc"] for record in records(whole, "epoch")]
    best = scores.index(max(scores))
    (end,) = records(whole, "end")
    assert (end["kept_epoch"], end["val"]["auroc"]) == (best, pytest.approx(max(scores)))
    assert f"those of epoch {best + 1} of 4" in said and "better than those on other pictures" in said
    for left in (1, 2, 3):
        shutil.rmtree(resumed, ignore_errors=True)
        shutil.copytree(whole, resumed)
        (resumed / "ema.safetensors").unlink()
        for checkpoint in sorted((resumed / "checkpoints").glob("*.pt"))[left:]:
            checkpoint.unlink()
        assert fit(drawn, resumed, *changes, resume=True) == 0
        same(whole, resumed)
    assert main(["export", str(whole), str(tmp_path / "bundle"), "--positive", "malignant"]) == 0
    assert CHOSEN_ON_VAL in json.loads((tmp_path / "bundle" / "manifest.json").read_text())["notes"]


def test_a_run_ends_when_nothing_becomes_better(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = [f"rates.{part}=1e-30" for part in ("cnn", "swin", "head", "norm_and_bias")]
    changes = ("early_stopping=2", "stages=[{name: all, epochs: 9}]", *still)
    assert fit(drawn, tmp_path / "run", *changes) == 0
    assert len(records(tmp_path / "run", "epoch")) == 3  # the first is the best, and two were not better
    said = capsys.readouterr().out
    assert "stopped early: none of 2 epochs was better on val" in said and "after epoch 3" in said
    weights = safetensors.torch.load_file(tmp_path / "run" / "ema.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert fit(drawn, tmp_path / "run", *changes, resume=True) == 0  # it has ended, and stays so
    assert len(records(tmp_path / "run", "epoch")) == 3
