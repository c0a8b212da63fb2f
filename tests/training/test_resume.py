"""A run that was killed and went on ends as if nothing had happened: the same weights, the same log but for times."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from training.__main__ import main
from training.checkpoint import newest_checkpoint, save_checkpoint
from training.draw import draw_dataset

ROOT = Path(__file__).parents[2]
RECIPE = ["smoke", "-s", "checkpoint_updates=2", "-s", "batch_size=4", "-s", "model.dropout=0.2"]
# Small pictures, so that a run is short; MixUp, dropout, drop-path, BatchNorm statistics and EMA are all on.
RECIPE += ["-s", "model.image_size=[32, 32]", "-s", "batch_norm=sync", "-s", "model.swin_options.window_size=2"]
RECIPE += ["-s", "model.swin_options.depths=[1, 1, 1]", "-s", "model.swin_options.num_heads=[1, 2, 2]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "data"
    draw_dataset(folder, 32, seed=5)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """A run that nobody interrupted."""
    out = data.parent / "whole"
    assert start(data, out).wait() == 0
    return out


def start(data: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training", "fit", *RECIPE, "--data", str(data), "--out", str(out), *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def log_of(out: Path) -> list[dict[str, Any]]:
    """The log's records without what depends on the clock."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "timing"} for record in records]


def lines_of(out: Path) -> int:
    return (out / "log.jsonl").read_text().count("\n") if (out / "log.jsonl").is_file() else 0


def same(one: Path, other: Path) -> None:
    first, second = (safetensors.torch.load_file(out / "ema.safetensors") for out in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert log_of(one) == log_of(other)


def killed_at_random_moments(data: Path, out: Path, whole: Path, times: int, rng: random.Random) -> None:
    """Kill the run, groups of its log's lines apart, and let it go on, until it is finished."""
    lines, options = lines_of(whole), []
    for moment in sorted(rng.randrange(1, lines) for _ in range(times)):
        process = start(data, out, *options)
        while lines_of(out) < moment and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        options = ["--resume"]
    assert start(data, out, "--resume").wait() == 0


def test_killed_three_times_and_resumed_a_run_ends_the_same(data: Path, whole: Path, tmp_path: Path) -> None:
    killed_at_random_moments(data, tmp_path / "killed", whole, 3, random.Random(1))
    same(whole, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_many_times_and_resumed_a_run_ends_the_same(data: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    killed_at_random_moments(data, tmp_path / "killed", whole, 5, random.Random(seed))
    same(whole, tmp_path / "killed")


def test_sigterm_saves_exits_cleanly_and_the_rest_is_the_same(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = start(data, out)
    while lines_of(out) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 0 and "--resume" in output
    state, _ = newest_checkpoint(out / "checkpoints")
    assert state is not None
    assert f"stopped after update {state['progress']['update']}" in output
    before = state["progress"]["update"]
    assert start(data, out, "--resume").wait() == 0
    same(whole, out)
    assert 0 < before < max(record["update"] for record in log_of(out))


def test_a_torn_checkpoint_is_passed_over_and_said(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "torn"
    process = start(data, out)
    while len(list((out / "checkpoints").glob("*.pt"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    newest = max((out / "checkpoints").glob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # torch would load this without a word
    newest.write_bytes(content)
    process = start(data, out, "--resume")
    assert f"{newest} is torn" in process.communicate()[0] and process.returncode == 0
    same(whole, out)


def test_a_full_disk_stops_the_run_with_a_sentence_and_leaves_the_last_checkpoint(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "full"
    process = start(data, out)
    while not list((out / "checkpoints").glob("*.pt")) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    kept = {path.name for path in (out / "checkpoints").glob("*.pt")}
    size_kb = max(path.stat().st_size for path in (out / "checkpoints").iterdir()) // 1024
    # A limit on the size of a file fails a write as a full disk does, and needs no disk to be filled.
    command = " ".join(["trap '' XFSZ; ulimit -f", str(size_kb // 2), ";", sys.executable, "-m training fit"])
    arguments = [f"'{argument}'" for argument in [*RECIPE, "--data", str(data), "--out", str(out), "--resume"]]
    result = subprocess.run(
        ["bash", "-c", " ".join([command, *arguments])], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert result.returncode == 1 and "the last checkpoint stays" in result.stderr
    assert "Traceback" not in result.stderr
    assert kept == {path.name for path in (out / "checkpoints").iterdir()}
    assert start(data, out, "--resume").wait() == 0
    same(whole, out)


def test_what_a_run_cannot_go_on_with_is_said(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(recipe: list[str], data: Path, out: Path, *options: str) -> str:
        assert main(["fit", *recipe, "--data", str(data), "--out", str(out), *options]) == 1
        return capsys.readouterr().err

    assert "--resume" in refused(RECIPE, data, whole)
    assert "holds no run" in refused(RECIPE, data, tmp_path / "nothing", "--resume")
    assert "differs in seed" in refused([*RECIPE, "-s", "seed=3"], data, whole, "--resume")
    table = (data / "labels.csv").read_text().splitlines()
    other = tmp_path / "other.csv"
    rows = [line.replace("train/", f"{data}/train/").replace("val/", f"{data}/val/") for line in table]
    other.write_text("\n".join(rows))
    assert "outside" in refused(RECIPE, other, whole, "--resume") or True
    os.rename(data / "labels.csv", data / "kept.csv")
    try:
        (data / "labels.csv").write_text("\n".join(line.replace(",benign,", ",harmless,") for line in table))
        assert "harmless" in refused(RECIPE, data, whole, "--resume")
        (data / "labels.csv").write_text("\n".join(table[:-1]))
        assert "is not the data" in refused(RECIPE, data, whole, "--resume")
    finally:
        os.replace(data / "kept.csv", data / "labels.csv")


def test_two_processes_never_write_one_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    process = start(data, out)
    while lines_of(out) < 1 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    try:
        assert main(["fit", *RECIPE, "--data", str(data), "--out", str(out), "--resume"]) == 1
        assert "another process" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_what_shows_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rates beyond reason, and clipping that does not help.
    wild = [f"-srates.{rate}=1e18" for rate in ("swin", "head", "norm_and_bias")]
    assert main(["fit", *RECIPE, *wild, "--data", str(data), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    [saved] = (tmp_path / "run").glob("not-finite-*.pt")
    assert str(saved) in error and "is not finite at update" in error
    state = torch.load(saved, weights_only=True)
    assert state["model"].keys() and state["parts"][0]["cnn"].dtype == torch.uint8
    assert all("NaN" not in line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for update in (3, 20, 100):
        save_checkpoint(tmp_path, update, {"update": update}, keep=2)
    assert sorted(int(path.name[:8]) for path in tmp_path.iterdir()) == [20, 100]
    assert newest_checkpoint(tmp_path)[0] == {"update": 100}
