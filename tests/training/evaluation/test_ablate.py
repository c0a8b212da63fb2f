"""An ablation compares like with like, says what its runs' weights say, and claims no more than they show."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from app.models.cnnswin import FUSIONS, CNNViTFusion, Fusion
from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare
from app.shapes import Float, Int
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import DataError, load_samples, read_samples
from training.evaluation.ablate import _data_with_split, ablate
from training.evaluation.comparison import Comparison, LabelledPictures, Variant, compare
from training.evaluation.variants import variant_recipes
from training.recipe.config import Recipe, RecipeError, Start
from training.recipe.load import load_recipe

SMALL = ["model.image_size=[32, 32]", "model.swin_options.window_size=2", "model.swin_options.depths=[1, 1, 1]"]
SMALL += ["model.swin_options.num_heads=[1, 2, 2]", "batch_size=4", "workers=0", "seed=3"]
ONE_EPOCH = "stages=[{name: main, epochs: 1}]"
VARIANTS = ("cross_attention", "concat", "cnn")
NAMES = [f"{fusion}-{seed}" for seed in (3, 4) for fusion in VARIANTS]


def small(*changes: str) -> Recipe:
    return load_recipe("smoke", [*SMALL, *changes])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in groups, without a split of their own."""
    folder = tmp_path_factory.mktemp("ablate") / "data"
    draw_dataset(folder, 24, seed=5)
    rows = [line.split(",") for line in (folder / "labels.csv").read_text().splitlines()]
    (folder / "labels.csv").write_text("".join(f"{path},{label},{group}\n" for path, label, group, *_ in rows))
    return folder


def run_ablate(data: Path, out: Path, *options: str) -> int:
    changes = [argument for change in (*SMALL, ONE_EPOCH) for argument in ("-s", change)]
    variants = ["--seeds", "2", "--variants", ",".join(VARIANTS)]
    return main(["ablate", "smoke", *changes, "--data", str(data), "--out", str(out), *variants, *options])


@pytest.fixture(scope="module")
def out(data: Path) -> Path:
    folder = data.parent / "out"
    assert run_ablate(data, folder) == 0
    return folder


def result(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "ablation.json").read_text())
    return content


def answers(run: Path) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """Probabilities of val by a run's weights, and the labels, all from its files alone."""
    config = yaml.safe_load((run / "recipe.yaml").read_text())["model"]
    model = CNNViTFusion(2, **config | {"image_size": (32, 32)}).eval()
    model.load_state_dict(safetensors.torch.load_file(run / "ema.safetensors"))
    val = [sample for sample in load_samples(run / "samples.csv") if sample.split == "val"]
    images = np.stack([prepare(decode(sample.path.read_bytes(), Limits()), (32, 32)).image for sample in val])
    with torch.inference_mode():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    return logits.double().softmax(dim=1).numpy(), np.array([sample.label == "malignant" for sample in val]).astype(int)


def copied(out: Path, again: Path) -> Path:
    """A copy of an ablation, with which it can be continued."""
    shutil.copytree(out, again, symlinks=True)
    for table in again.glob("*/samples.csv"):  # a run's table of pictures names its own place
        table.write_text(table.read_text().replace(str(out), str(again)))
    return again


@pytest.mark.slow
def test_the_tables_figures_are_those_of_the_runs_own_weights(out: Path) -> None:
    rows, text = result(out)["variants"], (out / "ablation.md").read_text()
    assert set(rows) == set(VARIANTS)
    for fusion in VARIANTS:
        per_run = []
        for seed in (3, 4):
            probabilities, labels = answers(out / f"{fusion}-{seed}")
            found = [roc_auc_score(labels, probabilities[:, 1]), accuracy_score(labels, probabilities.argmax(axis=1))]
            per_run.append([*found, log_loss(labels, probabilities)])
        mean, spread = np.mean(per_run, axis=0), np.abs(np.subtract(per_run[0], per_run[1])) / np.sqrt(2)
        assert list(rows[fusion]["mean"].values()) == pytest.approx(mean, abs=1e-5)
        assert list(rows[fusion]["standard_deviation"].values()) == pytest.approx(spread, abs=1e-5)
        cells = " | ".join(
            f"{rows[fusion]['mean'][name]:.3f} ± {rows[fusion]['standard_deviation'][name]:.3f}"
            for name in ("auroc", "accuracy", "nll")
        )
        assert f"| {fusion} | {rows[fusion]['parameters']:,} | {cells} |" in text


def test_runs_differ_in_fusion_its_size_and_seed_and_in_nothing_else(out: Path) -> None:
    recipes = [yaml.safe_load((out / name / "recipe.yaml").read_text()) for name in NAMES]
    seen = [(recipe["model"].pop("fusion"), recipe.pop("seed"), recipe["model"].pop("dim")) for recipe in recipes]
    assert [f"{fusion}-{seed}" for fusion, seed, _ in seen] == NAMES
    assert all(recipe == recipes[0] for recipe in recipes)
    assert len({(out / name / "samples.csv").read_text() for name in NAMES}) == 1
    groups = {"train": set(), "val": set()}  # type: dict[str | None, set[str | None]]
    for sample in load_samples(out / NAMES[0] / "samples.csv"):
        groups[sample.split].add(sample.group)
    assert groups["train"] and groups["val"] and not groups["train"] & groups["val"]


@pytest.mark.slow
def test_only_what_is_not_finished_is_trained_again_and_the_table_stays(
    data: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = copied(out, tmp_path / "out")
    (again / "concat-4" / "ema.safetensors").unlink()
    shutil.rmtree(again / "cnn-3")
    kept = {name: (again / name / "ema.safetensors").stat().st_mtime_ns for name in NAMES[:2]}
    capsys.readouterr()
    assert run_ablate(data, again) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.partition(":")[0] in NAMES]
    assert {line.partition(":")[0] for line in said} == {"concat-4", "cnn-3"}
    assert "concat-4: resuming after update 4 of 4" in said
    assert kept == {name: (again / name / "ema.safetensors").stat().st_mtime_ns for name in NAMES[:2]}
    assert (again / "ablation.json").read_bytes() == (out / "ablation.json").read_bytes()


def test_a_signal_stops_the_run_and_the_ablation(data: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def say(message: str) -> None:
        said.append(message)
        if message.startswith("cross_attention-3: epoch 1/2"):
            os.kill(os.getpid(), signal.SIGTERM)

    recipe = small("stages=[{name: main, epochs: 2}]")
    assert ablate(recipe, data, tmp_path, 2, VARIANTS, say) is None
    assert said[-1] == "stopped: the same command continues from here"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cross_attention-3"}
    assert not (tmp_path / "cross_attention-3" / "ema.safetensors").exists()


def test_finished_runs_of_another_recipe_are_refused(data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_ablate(data, out, "-s", "rates.head=0.5") == 1
    assert "cross_attention-3 has a run of another recipe" in capsys.readouterr().err


def test_finished_runs_serve_whatever_changes_no_result(
    data: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = copied(out, tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in again.glob("*/ema.safetensors")}
    changes = ("workers=1", "log_updates=3", "checkpoint_updates=7", "keep_checkpoints=1", "keep=best")
    options = [word for change in (*changes, "early_stopping=1") for word in ("-s", change)]
    assert run_ablate(data, again, *options, "--variants", "cnn , concat, cross_attention") == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert (again / "ablation.json").read_bytes() == (out / "ablation.json").read_bytes()
    assert "keep: best and early_stopping: 1 have no effect here: all epochs are trained" in capsys.readouterr().out


def test_an_ablation_does_not_go_on_with_another_number_of_epochs(
    data: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = copied(out, tmp_path / "out")
    for weights in again.glob("*/ema.safetensors"):
        weights.unlink()  # as if all runs had been stopped, which may be prolonged on --resume
    assert run_ablate(data, again, "-s", "stages.0.epochs=2") == 1
    assert "has a run of another recipe, which differs in stages: give both again" in capsys.readouterr().err
    assert not [*again.glob("*/ema.safetensors")]


def test_every_variant_starts_from_the_backbones_of_a_bundle_under_a_new_head(
    data: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = out / "cross_attention-4"
    theirs = safetensors.torch.load_file(start / "ema.safetensors")
    frozen = "stages=[{name: main, epochs: 1, cnn: frozen, swin: frozen}]"
    slow = ("-s", f"start.bundle={start}", "-s", frozen, "-s", "rates.head=1e-9", "-s", "rates.norm_and_bias=1e-9")
    again = tmp_path / "out"
    assert run_ablate(data, again, *slow, "--variants", "cross_attention,concat") == 0
    said = capsys.readouterr().out
    for fusion in ("cross_attention", "concat"):
        assert f"{fusion}-3: start.bundle: the backbones of {start}; the head is new" in said
    ours = safetensors.torch.load_file(again / "cross_attention-3" / "ema.safetensors")
    projections = [f"head.attention.{name}.weight" for name in ("key", "query", "value", "output")]
    assert not any(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in projections)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("cnn."))
    text = (again / "ablation.md").read_text()
    assert "They start from the backbones of cross_attention-4, each under a new head." in text and text.strip() in said


@pytest.mark.parametrize(
    ("change", "variants", "sentence"),
    [
        ("distil: {from: cnn}", "cross_attention,cnn", "or leave cnn out of --variants"),
        ("distil: {from: cnn}", "cross_attention,swin", "or leave swin out of --variants"),
        ("distil: {from: /no/folder}", "cross_attention,concat", "stages.0.distil.from: /no/folder is no folder"),
        ("cnn: {unit: block, last: 99}", "cross_attention,concat", "but it has 5: choose fewer"),
        ("cnn: all", "cross_attention,concat", "concat-4 exists and is not empty"),
    ],
)
def test_what_would_stop_a_variant_is_told_before_the_first_run(
    data: Path, tmp_path: Path, change: str, variants: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "out" / "concat-4" / "notes.txt"
    if "concat-4" in sentence:
        notes.parent.mkdir(parents=True)
        notes.touch()
    stages = f"stages=[{{name: main, epochs: 1, {change}}}]"
    assert run_ablate(data, tmp_path / "out", "-s", stages, "--variants", variants) == 1
    assert sentence in capsys.readouterr().err
    assert not [*(tmp_path / "out").glob("*/recipe.yaml")]


def test_what_is_set_aside_for_calibration_is_the_same_for_every_seed(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", 60, seed=0)  # with train and val
    for share in (0.0, 0.3):
        recipe = load_recipe("smoke", [f"calibration_share={share}"])
        data = _data_with_split(recipe, tmp_path / "drawn", tmp_path / "out", lambda _: None)
        splits = {sample.split for sample in read_samples(data)}
        assert splits == {"train", "val"} | ({"calibration"} if share else set())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--variants", "cross_attention,concta"], "unknown variant concta: choose from"),
        (["--variants", "concat,late"], "needs cross_attention"),
        (["--seeds", "1"], "needs two or more"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_written(
    data: Path, tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_ablate(data, tmp_path / "out", *options) == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_val_side_too_small_for_intervals_is_refused_before_any_training(tmp_path: Path) -> None:
    for number in range(24):
        folder = tmp_path / "data" / f"class-{number // 2:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 10, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(DataError, match="too few to resample 12 classes"):
        ablate(small(), tmp_path / "data", tmp_path / "out", 2, VARIANTS, print)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"data"}


# In the second, position tables weigh so much that the same dim would be more than 5 % off.
SIZES = [small(), small("model.image_size=[256, 256]", "model.dim=64"), load_recipe("demo")]


@pytest.mark.parametrize("recipe", SIZES, ids=["small", "tables", "demo"])
def test_two_branch_variants_have_the_same_size_within_five_percent(recipe: Recipe) -> None:
    two_branch: tuple[Fusion, ...] = ("cross_attention", "concat", "late")
    recipes, parameters = variant_recipes(recipe, two_branch, 2)
    models = {fusion: CNNViTFusion(2, **recipes[fusion].model.model_dump()) for fusion in two_branch}
    assert parameters == {fusion: count(model) for fusion, model in models.items()}
    assert recipes["cross_attention"] == recipe
    for fusion, model in models.items():
        assert abs(count(model) / count(models["cross_attention"]) - 1) <= 0.05
        assert recipes[fusion].model.dim % recipe.model.heads == 0


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_size_that_no_dim_can_meet_is_refused() -> None:
    recipe = small("model.image_size=[256, 256]", "model.dim=64", "model.heads=64")
    with pytest.raises(RecipeError, match=r"differs from cross_attention's .* choose fewer heads"):
        variant_recipes(recipe, ["cross_attention", "late"], 2)


def test_a_single_branch_loses_the_start_of_the_branch_that_it_lacks(tmp_path: Path) -> None:
    cnn, swin = Start(weights=tmp_path / "cnn.pt"), Start(pretrained=True)
    recipe = small().model_copy(update={"start": small().start.model_copy(update={"cnn": cnn, "swin": swin})})
    starts = {fusion: own.start for fusion, own in variant_recipes(recipe, FUSIONS, 2)[0].items()}
    assert (starts["cnn"].cnn, starts["cnn"].swin) == (cnn, Start())
    assert (starts["swin"].cnn, starts["swin"].swin) == (Start(), swin)
    assert all(starts[fusion] == recipe.start for fusion in ("cross_attention", "concat", "late"))


LABELS = np.arange(60) % 2


def scored(*skills: float) -> Float[np.ndarray, "seeds n k"]:
    """Answers of one run for each skill: 0 is chance, 4 is nearly always right."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=len(LABELS))
    runs = [1 / (1 + np.exp(-(skill * (LABELS - 0.5) + noise))) for skill in skills]
    return np.stack([np.stack([1 - run, run], axis=1) for run in runs])


def compared(ours: tuple[float, ...], theirs: tuple[float, ...], groups: int = 30) -> Comparison:
    variants = [Variant("cross_attention", 8, 1, scored(*ours)), Variant("concat", 8, 1, scored(*theirs))]
    [comparison] = compare(
        variants, LabelledPictures(LABELS, tuple(f"g{row * groups // 60}" for row in range(60))), repeats=200
    )
    return comparison


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "words"),
    [
        ((4, 4.2), (0.5, 0.6), "better", "cross_attention is better than concat: AUROC +"),
        ((0.5, 0.6), (4, 4.2), "worse", "cross_attention is worse than concat: AUROC -"),
        ((2, 2.1), (2.1, 2), "no difference shown", "because the interval contains 0"),
        ((1, 1), (1, 1), "no difference shown", "because the interval contains 0: AUROC +0.000"),
        ((4, 1.9), (0, 2), "no difference shown", "because the seeds disagree"),
        ((0, 2), (4, 1.9), "no difference shown", "because the seeds disagree"),
    ],
)
def test_a_verdict_claims_what_pictures_and_seeds_both_show(
    ours: tuple[float, ...], theirs: tuple[float, ...], verdict: str, words: str
) -> None:
    comparison = compared(ours, theirs)
    assert comparison.verdict == verdict and words in comparison.sentence()


@pytest.mark.parametrize(("groups", "verdict"), [(10, "better"), (9, "no difference shown")])
def test_with_few_groups_no_verdict_is_given(groups: int, verdict: str) -> None:
    comparison = compared((4, 4.2), (0.5, 0.6), groups)
    assert comparison.verdict == verdict
    assert (f"val has {groups} groups of a class" in comparison.sentence()) == (groups < 10)


def test_a_difference_is_that_of_the_means_over_seeds_not_of_averaged_answers() -> None:
    ours, theirs = scored(4, 0), scored(2, 1)
    of_seeds = [
        roc_auc_score(LABELS, one[:, 1]) - roc_auc_score(LABELS, other[:, 1])
        for one, other in zip(ours, theirs, strict=True)
    ]
    comparison = compared((4, 0), (2, 1))
    assert comparison.seeds == pytest.approx(of_seeds)
    interval = comparison.differences["auroc"]
    assert interval.value == pytest.approx(np.mean(of_seeds)) and interval.low < interval.value < interval.high
