"""The whole way of a new model: drawn pictures, one short training, a bundle, an answer. And what the commands say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.bundles import tiny_architecture
from training.cli import main
from training.data.draw import draw_dataset
from training.recipe.config import RecipeError
from training.recipe.load import load_recipe, shipped_recipes

ROOT = Path(__file__).parents[3]
CARD = {
    "name": "drawn",
    "version": "1",
    "positive": "malignant",
    "licence": "MIT",
    "data": "drawn pictures",
    "notes": ["For tests."],
}
COMMANDS = ["plan", "fit", "evaluate", "export", "ablate", "doctor", "draw-data"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn data, a recipe, a card, and a run."""
    folder = tmp_path_factory.mktemp("fit")
    stages = [{"name": "warmup", "epochs": 1, "cnn": "frozen"}, {"name": "main", "epochs": 1, "cnn": {"last": 2}}]
    model = tiny_architecture().model_dump() | {"image_size": (64, 64)}
    recipe = {"name": "tiny", "model": model, "stages": stages, "batch_size": 8, "workers": 1, "log_updates": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    draw_dataset(folder / "data", 37, seed=0)  # 9 in val, which two processes cannot share evenly
    assert main(["fit", str(folder / "tiny.yaml"), "--data", str(folder / "data"), "--out", str(folder / "run")]) == 0
    return folder


@pytest.mark.slow
def test_a_run_becomes_a_bundle_that_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from app.__main__ import main as serve

    assert main(["export", str(folder / "run"), str(folder / "bundle"), "--card", str(folder / "card.yaml")]) == 0
    picture = next((folder / "data" / "val").rglob("*.png"))
    capsys.readouterr()
    assert serve(["predict", str(picture), "--bundle", str(folder / "bundle"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"benign", "malignant"}


def test_a_run_holds_what_it_was_and_how_it_went(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").open()]
    assert [record["kind"] for record in records] == ["update"] * 3 + ["epoch"] + ["update"] * 3 + ["epoch", "end"]
    first, last = records[0], records[-2]
    assert first["stage"] == "warmup" and first["gradient_norm"].keys() == {"swin", "head"}
    assert last["stage"] == "main" and last["val"].keys() == {"nll", "accuracy", "auroc"}
    assert records[-1]["val"] == last["val"]
    assert 0 <= last["timing"]["waiting_share"] <= 1 and last["timing"]["images_per_s"] > 0
    assert last["loss"] == pytest.approx(sum(record["loss"] for record in records[4:7]) / 3)
    recipe = load_recipe(str(folder / "run" / "recipe.yaml"))
    assert recipe == load_recipe(str(folder / "tiny.yaml"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "smoke")) for name in shipped_recipes()]
)
def test_plan_says_what_a_shipped_recipe_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", name, "--pictures", "1750"]) == 0
    text = capsys.readouterr().out
    assert "epochs" in text and "norm_and_bias" in text and "updates" in text and "MiB" in text
    assert "diverges" not in text  # no such warning of a recipe that we ship


MISTAKES = [
    ("rates.head=0.5", "rates.head is 0.5"),
    ("batch_size=2", "batches of 2 often hold one class"),
    ("batch_size=4096", "no update would be made"),
    ("model.image_size=[64, 96]", "no multiple of its window"),
    ("start.cnn.pretrained=false", "the cnn has random weights"),
    ("start.cnn.pretrained=false start.cnn.weights=no/such.pth", "no file no/such.pth"),
    ("ema_decay=0.99999", "never catches up"),
    ("batch_norm=sync accumulate=8", "statistics of 4 pictures"),
]


@pytest.mark.parametrize(("changes", "warning"), MISTAKES)
def test_plan_warns_of_a_known_mistake(changes: str, warning: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["model.swin_options={embed_dim: 16, num_heads: [1, 2, 4, 8], depths: [1, 1, 1, 1]}", "model.dim=16"]
    arguments = [part for change in [*small, *_split(changes)] for part in ("--set", change)]
    assert main(["plan", "progressive", "--pictures", "1750", *arguments]) == 0
    with_mistake = capsys.readouterr().out
    assert main(["plan", "progressive", "--pictures", "50000", *arguments[: 2 * len(small)]]) == 0
    assert warning in with_mistake and warning not in capsys.readouterr().out


def _split(changes: str) -> list[str]:
    return [changes] if "[" in changes else changes.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"example: fusionlens-train {command}" in " ".join(capsys.readouterr().out.split())


def test_a_mistake_is_told_in_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--data", str(folder / "data"), "--out", str(folder / "x")]) == 1
        assert not (folder / "x" / "checkpoints").exists()
        return capsys.readouterr().err

    tiny = str(folder / "tiny.yaml")
    assert "give a YAML file or one of demo, progressive, progressive-dinov2, smoke" in said("fit", "no-such-recipe")
    assert "batch_size 6" in said("fit", tiny, "-s", "batch_size=6", "-s", "accumulate=2")
    assert "has 5" in said("fit", tiny, "-s", "stages.1.cnn.last=9")
    assert "cannot be built" in said("fit", tiny, "-s", "model.heads=3")
    assert main(["fit", "demo", "--data", str(folder / "nowhere"), "--out", str(folder / "x")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_stops_the_run_with_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_dataset(tmp_path / "data", 32, seed=0)
    broken = next((tmp_path / "data" / "train").rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main(["fit", str(folder / "tiny.yaml"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"fusionlens-train: {broken}") and "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nbatch_sise: 3", "unknown key batch_sise: did you mean batch_size"),
        ("name: x\nmodel: {fusoin: late}", "unknown key model.fusoin: did you mean fusion"),
        ("name: x\nrates: {cnn: fast}", "rates.cnn: .*'fast'"),
        ("name: x\nstages: []", "stages"),
        ("name: x\nstages: [{name: a, epochs: 1, cnn: {lst: 5}}]", "stages.0.cnn.lst: did you mean last"),
        ("name: x\nstart: {cnn: {pretrained: true, weights: a.pth}}", "exclude each other"),
        ("- 3", "mapping"),
        ("a: [", "not YAML"),
        ("name: x\nmodel:\n  cnn_options: {a: &a [1, 1], b: &b [*a, *a]}", "aliases .* are not read: write the value"),
    ],
)
def test_an_unusable_recipe_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.1.epoch=3", "did you mean epochs"),
        ("stages.9.epochs=3", "one of the 2 places"),
        ("ratse.cnn=1", "did you mean rates"),
        ("seed", "KEY=VALUE"),
        ("name.x=1", "has no x"),
    ],
)
def test_an_unusable_change_names_the_key(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("progressive", [change])
    assert load_recipe("progressive", ["stages.1.epochs=20"]).stages[1].epochs == 20


@pytest.mark.slow
def test_two_processes_train_as_one(folder: Path) -> None:
    """One launch of torchrun for everything that needs two processes: see two_processes.py."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "tests.support.two_processes", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gradients agree" in done.stdout and "one log" in done.stdout
