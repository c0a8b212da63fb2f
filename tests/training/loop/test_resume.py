"""A run that was killed and went on ends as if nothing had happened: the same weights, the same log but for times."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.training.loop.small_run import RECIPE
from training.cli import main
from training.data.draw import draw_dataset
from training.runs.checkpoint import newest_checkpoint, save_checkpoint

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.loop.preloaded"])


def run_in_child(arguments: list[str], output: Path, file_limit_bytes: int | None) -> None:
    """The command line, with its output in a file."""
    os.setpgrp()  # as a shell starts it
    set_start_method("fork", force=True)  # as in a process of its own; here it would be this process's own method
    if file_limit_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, resource.RLIM_INFINITY))
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.exit(main(arguments))


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


@dataclass
class Child:
    """A process that runs `fit`, forked from one that has imported everything, so that it starts at once."""

    process: ForkServerProcess
    output: Path

    def said(self) -> str:
        """Wait for the end, and return what it printed."""
        self.process.join()
        return self.output.read_text()

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            os.kill(self.process.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        """As ctrl-C and some schedulers do: the loading processes get it too."""
        assert self.process.pid is not None
        os.killpg(self.process.pid, number)

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


def start(data: Path, out: Path, *options: str, file_limit_bytes: int | None = None) -> Child:
    arguments = ["fit", *RECIPE, "--data", str(data), "--out", str(out), *options]
    output = out.with_name(f"{out.name}.out")
    process = CONTEXT.Process(target=run_in_child, args=(arguments, output, file_limit_bytes))
    process.start()
    return Child(process, output)


def wait_until(condition: Callable[[], object], child: Child) -> None:
    while not condition() and child.process.is_alive():
        time.sleep(0.002)


def log_of(out: Path) -> list[dict[str, Any]]:
    """The log's records without what depends on the clock; figures of val without their last digits.

    Two passes over val in one process were seen to differ by one unit in a logit's last place.
    """
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for record in records:
        if "val" in record:
            record["val"] = {name: round(value, 6) for name, value in record["val"].items()}
    return [{key: value for key, value in record.items() if key != "timing"} for record in records]


def lines_of(out: Path) -> int:
    return (out / "log.jsonl").read_text().count("\n") if (out / "log.jsonl").is_file() else 0


def same(one: Path, other: Path) -> None:
    first, second = (safetensors.torch.load_file(out / "ema.safetensors") for out in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert log_of(one) == log_of(other)


def killed_at_random_moments(data: Path, out: Path, whole: Path, times: int, rng: random.Random) -> None:
    """Kill the run, groups of its log's lines apart, and let it go on, until it is finished."""
    lines, kills = lines_of(whole), 0
    options: list[str] = []
    for moment in sorted(rng.randrange(1, lines) for _ in range(times)):
        child = start(data, out, *options)
        wait_until(lambda moment=moment: lines_of(out) >= moment, child)  # type: ignore[misc]
        time.sleep(rng.random() * 0.1)
        child.send(signal.SIGKILL)
        if child.wait() == 0:
            break  # on a busy machine it may come to its end before this process has its turn
        assert child.wait() == -signal.SIGKILL
        kills += 1
        options = ["--resume"]
    assert kills
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
    child = start(data, out)
    wait_until(lambda: lines_of(out) >= 5, child)
    child.send(signal.SIGTERM)
    output = child.said()
    assert child.wait() == 0 and "--resume" in output
    state, _ = newest_checkpoint(out / "checkpoints")
    assert state is not None
    assert f"stopped after update {state['progress']['update']}" in output
    before = state["progress"]["update"]
    assert start(data, out, "--resume").wait() == 0
    same(whole, out)
    assert 0 < before < max(record["update"] for record in log_of(out))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_loading_processes_too_stops_the_run_as_well(
    data: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "stopped"
    child = start(data, out, "--set", "workers=2")
    wait_until(lambda: lines_of(out) >= 5, child)
    child.send_to_group(number)
    output = child.said()
    assert child.wait() == 0 and "--resume" in output and "Traceback" not in output
    assert start(data, out, "--resume").wait() == 0
    same(whole, out)


def test_a_run_goes_on_from_another_folder_with_relative_paths(
    data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data.parent)
    assert main(["fit", *RECIPE, "--data", data.name, "--out", whole.name, "--resume"]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_torn_checkpoint_is_passed_over_and_said(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "torn"
    child = start(data, out)
    wait_until(lambda: len(list((out / "checkpoints").glob("*.pt"))) == 2, child)
    child.send(signal.SIGKILL)
    child.wait()
    newest = max((out / "checkpoints").glob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # torch would load this without a word
    newest.write_bytes(content)
    child = start(data, out, "--resume")
    assert f"{newest} is damaged" in child.said() and child.wait() == 0
    same(whole, out)


def test_a_full_disk_stops_the_run_with_a_sentence_and_leaves_the_last_checkpoint(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "full"
    child = start(data, out)
    wait_until(lambda: list((out / "checkpoints").glob("*.pt")), child)
    child.send(signal.SIGKILL)
    child.wait()
    [size] = {path.stat().st_size for path in (out / "checkpoints").glob("*.pt")}
    kept = {path.name for path in (out / "checkpoints").glob("*.pt")}
    # A limit on the size of a file fails a write as a full disk does, and needs no disk to be filled.
    child = start(data, out, "--resume", file_limit_bytes=size // 2)
    said = child.said()
    assert child.wait() == 1 and "the last checkpoint is kept" in said and "Traceback" not in said
    assert kept == {path.name for path in (out / "checkpoints").iterdir() if path.suffix == ".pt"}
    assert start(data, out, "--resume").wait() == 0
    same(whole, out)


def test_what_a_run_cannot_go_on_with_is_said(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(recipe: list[str], data: Path, out: Path, *options: str) -> str:
        assert main(["fit", *recipe, "--data", str(data), "--out", str(out), *options]) == 1
        return capsys.readouterr().err

    assert "--resume" in refused(RECIPE, data, whole)
    assert "has no run to resume" in refused(RECIPE, data, tmp_path / "nothing", "--resume")
    assert "differs in seed" in refused([*RECIPE, "-s", "seed=3"], data, whole, "--resume")
    table = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").rename(data / "kept.csv")
    try:
        (data / "labels.csv").write_text("\n".join(line.replace(",benign,", ",harmless,") for line in table))
        assert "harmless" in refused(RECIPE, data, whole, "--resume")
        (data / "labels.csv").write_text("\n".join(line.replace("drawn-", "other-") for line in table))
        assert "has the group other-" in refused(RECIPE, data, whole, "--resume")
    finally:
        (data / "kept.csv").replace(data / "labels.csv")


def test_two_processes_never_write_one_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    child = start(data, out)
    wait_until(lambda: lines_of(out) >= 1, child)
    child.send(signal.SIGSTOP)
    try:
        assert main(["fit", *RECIPE, "--data", str(data), "--out", str(out), "--resume"]) == 1
        assert "another process" in capsys.readouterr().err
    finally:
        child.send(signal.SIGKILL)
        child.wait()


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
