"""Heads on a fixed trunk: each sees the maps that it should, learns what is in them, and is trained once."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from app.models.cnnswin import CrossAttentionHead, Shape
from app.models.feature_maps import Branch, FeatureMaps
from tests.support.bundles import tiny_architecture, write_tiny_bundle
from tests.training.recipe.test_resuming import OTHER as OTHER_VALUES
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import Sample, read_samples
from training.evaluation.ablate import HEADS
from training.evaluation.frozen_trunks import WITHOUT_EFFECT, Trunk, read_trunk, train_heads
from training.evaluation.heads import CNN_QUERIES, CNNQueriesHead, new_head
from training.loading.forward import prepared_batches, to_model_input
from training.loop.trained import read_trained
from training.recipe.config import Recipe

SHAPES = FeatureMaps[Shape]({"cnn": (6, 2, 2), "swin": (10, 3, 3)})
RECIPE = Recipe.model_validate(
    {
        **{"name": "heads", "model": {"dim": 128, "heads": 2, "image_size": [64, 64]}, "ema_decay": 0.9},
        **{"stages": [{"name": "all", "epochs": 12}], "rates": {"head": 2e-3, "norm_and_bias": 2e-3}, "batch_size": 8},
    }
)


def planted(branch: Branch, count: int = 96) -> Trunk:
    """Maps of noise, in which one channel of one branch tells the label."""
    rng = np.random.default_rng(0)

    def maps(labels: np.ndarray) -> FeatureMaps[np.ndarray]:
        noise = {name: rng.standard_normal((len(labels), *shape)).astype(np.float16) for name, shape in SHAPES.items()}
        noise[branch][:, 1] += 3 * labels[:, None, None]
        return FeatureMaps(noise)

    labels = np.arange(count) % 2
    samples = [Sample(Path(f"{number}.png"), "ab"[label], None, "train", None) for number, label in enumerate(labels)]
    return Trunk(SHAPES, ("a", "b"), samples, maps(labels), maps(labels), f"planted in {branch}")


@pytest.mark.parametrize("branch", ["cnn", "swin"])
def test_a_head_finds_what_is_in_its_maps_and_nothing_else(branch: Branch, tmp_path: Path) -> None:
    variants = train_heads(planted(branch), RECIPE, HEADS, [0], tmp_path, lambda message: None)
    scores = {one.fusion: roc_auc_score(np.arange(96) % 2, one.probabilities[0][:, 1]) for one in variants}
    blind = "swin" if branch == "cnn" else "cnn"
    assert 0.25 < scores.pop(blind) < 0.75
    assert scores.keys() == {*HEADS} - {blind} and min(scores.values()) > 0.9
    counts = {one.fusion: one.parameters for one in variants}
    assert max(counts[name] for name in ("cnn", "swin")) < counts["cross_attention"]
    both = [counts[name] for name in HEADS if name not in ("cnn", "swin")]
    assert max(both) / min(both) < 1.11  # each within 5 % of cross_attention


def test_a_head_is_trained_once_for_each_seed_and_recipe_and_always_to_the_same(tmp_path: Path) -> None:
    def trained(folder: str, recipe: Recipe = RECIPE) -> tuple[np.ndarray, list[str]]:
        said: list[str] = []
        (variant,) = train_heads(planted("cnn"), recipe, ["cross_attention"], [3, 4], tmp_path / folder, said.append)
        return variant.probabilities, sorted(path.name for path in (tmp_path / folder).glob("*.npy"))

    probabilities, files = trained("one")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    again, _ = trained("one")
    assert np.array_equal(again, probabilities) and len(files) == 2
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    assert np.array_equal(trained("two")[0], probabilities)  # in another folder it is trained anew
    assert not np.array_equal(probabilities[0], probabilities[1])  # the seeds differ
    _, more = trained("one", RECIPE.model_copy(update={"weight_decay": 0.5}))
    assert len(more) == 4 and {*files} < {*more}


def heads_of(recipe: Recipe, out: Path) -> np.ndarray:
    (variant,) = train_heads(planted("cnn"), recipe, ["cross_attention"], [3], out, lambda message: None)
    return variant.probabilities


def test_epochs_in_which_the_recipe_freezes_the_head_do_not_count(tmp_path: Path) -> None:
    distil = {"from": "cnn", "what": "map"}
    taught = {"name": "taught", "epochs": 30, "cnn": "frozen", "head": "frozen", "distil": distil}
    stages = Recipe.model_validate({"name": "heads", "stages": [taught, {"name": "all", "epochs": 12}]}).stages
    staged = RECIPE.model_copy(update={"stages": stages})
    assert np.array_equal(heads_of(staged, tmp_path / "staged"), heads_of(RECIPE, tmp_path / "plain"))


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT))
def test_a_key_without_effect_changes_no_head_and_trains_none_anew(key: str, tmp_path: Path) -> None:
    value = Recipe.model_validate({"name": "heads", key: OTHER_VALUES[key]})
    changed = RECIPE.model_copy(update={key: getattr(value, key), "stages": RECIPE.stages})
    assert getattr(changed, key) != getattr(RECIPE, key)
    one, other = tmp_path / "one", tmp_path / "other"
    assert np.array_equal(heads_of(RECIPE, one), heads_of(changed, other))
    assert [path.name for path in one.iterdir()] == [path.name for path in other.iterdir()]


def test_the_other_direction_is_cross_attention_with_the_branches_exchanged() -> None:
    torch.manual_seed(0)
    head = CNNQueriesHead(SHAPES, 16, 2, 2, 0.0).eval()
    maps = FeatureMaps({name: torch.randn(3, *shape) for name, shape in SHAPES.items()})
    logits, attention = head(maps)
    assert attention.shape == (3, 2, 4, 9)  # the CNN's four cells look at the nine of the Swin
    plain = CrossAttentionHead(FeatureMaps({"cnn": SHAPES["swin"], "swin": SHAPES["cnn"]}), 16, 2, 2, 0.0).eval()
    plain.load_state_dict(head.swapped.state_dict())
    assert torch.equal(plain(FeatureMaps({"cnn": maps["swin"], "swin": maps["cnn"]}))[0], logits)
    torch.manual_seed(0)
    both = new_head("both_query", RECIPE, SHAPES, 2, 16).eval()
    forth, back = both.forth(maps)[0], both.back(maps)[0]  # type: ignore[operator]
    assert torch.allclose(both(maps)[0], (forth + back) / 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen") / "data"
    draw_dataset(folder, 32, seed=5)
    return folder


def test_the_maps_are_those_of_the_model_and_are_computed_once(data: Path, tmp_path: Path) -> None:
    trained = read_trained(write_tiny_bundle(tmp_path / "bundle"), "--trunk")
    samples = read_samples(data)
    trunk = read_trunk(trained, samples, ("benign", "malignant"), RECIPE, tmp_path / "out")
    train = [sample for sample in samples if sample.split == "train"]
    with torch.inference_mode():
        (images,) = prepared_batches(train, (64, 64), None, batch=len(train))
        expected = trained.model.encode(to_model_input(images))
    for branch, feature_map in expected.items():
        assert np.allclose(trunk.train_maps[branch], feature_map.numpy(), rtol=1e-3, atol=1e-3)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    read_trunk(trained, samples, ("benign", "malignant"), RECIPE, tmp_path / "out")
    assert files == {path: path.stat().st_mtime_ns for path in files} and len(files) == 4


def ablate(data: Path, out: Path, *options: str, size: str = "[64, 64]") -> int:
    changes = ("stages=[{name: main, epochs: 1}]", f"model.image_size={size}", "batch_size=4")
    settings = [word for change in changes for word in ("-s", change)]
    return main(["ablate", "smoke", *settings, "--data", str(data), "--out", str(out), "--seeds", "2", *options])


def test_the_command_compares_all_heads_on_the_trunk_of_a_bundle(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "my-bundle")
    assert ablate(data, tmp_path / "out", "--trunk", str(bundle)) == 0
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert document["trunk"] == "my-bundle" and [*document["variants"]] == [*HEADS]
    assert [*document["comparisons"]] == [name for name in HEADS if name != "cross_attention"]
    said = capsys.readouterr().out
    assert "the fixed trunk of my-bundle" in said and "| both_query |" in said


def test_heads_are_trained_anew_for_other_labels_and_maps_computed_anew_for_other_pictures(
    data: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, other)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    options = ("--trunk", str(bundle), "--variants", "concat,cross_attention")
    assert ablate(other, out, *options) == 0
    counts = [len([*out.glob("*.npy")]), len([*out.glob("maps-*")])]
    swapped = {"benign": "malignant", "malignant": "benign"}
    with (other / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    with (other / "labels.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, [*rows[0]])
        writer.writeheader()
        writer.writerows(row | {"label": swapped[row["label"]]} for row in rows)
    assert ablate(other, out, *options) == 0
    assert [len([*out.glob("*.npy")]), len([*out.glob("maps-*")])] == [2 * counts[0], counts[1]]
    one, another = [other / row["path"] for row in rows if row["split"] == "val"][:2]
    one.write_bytes(another.read_bytes())
    assert ablate(other, out, *options) == 0
    assert len([*out.glob("maps-*")]) == 2 * counts[1]


def test_what_cannot_be_compared_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = write_tiny_bundle(tmp_path / "alone", "cnn")
    both = write_tiny_bundle(tmp_path / "both")
    for options, sentence in (
        (["--trunk", str(alone)], "--trunk: its model has the cnn alone: give one of two branches"),
        (["--trunk", str(tmp_path / "none")], "--trunk: "),
        (
            ["--variants", f"cross_attention,{CNN_QUERIES}"],
            "--variants: cnn_queries can only be compared on a fixed trunk: give --trunk too, or choose from",
        ),
        (["--trunk", str(both), "--variants", "late"], "--variants needs cross_attention and at least one other"),
    ):
        assert ablate(data, tmp_path / "out", *options) == 1
        assert sentence in capsys.readouterr().err
    diverging = ("-s", "rates.head=1e30", "-s", "clip_norm=1e30")
    assert ablate(data, tmp_path / "out", "--trunk", str(both), *diverging) == 1
    assert "its answers are not finite, so that it has diverged" in capsys.readouterr().err
    assert tiny_architecture().fusion == "cross_attention" and not (tmp_path / "out" / "ablation.json").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("batch_size=7", "batch_size 7 cannot be split"),
        ("batch_size=64", "an epoch of 24 pictures is less than one batch of 64"),
        ("balance={label: 0.5, within: clinic}", "balance.within: 24 of 24 pictures have no value in a column clinic"),
        ("model.heads=7", "model.dim: 32 is not a multiple of model.heads, 7"),
        ("model.heads=32", "which differs from cross_attention's"),
        ("model.image_size=[32, 32]", "--trunk: its model sees (64, 64) px, and the recipe has"),
        ("stretch=found", "--trunk: its model was trained with stretch: None, and the recipe has found"),
    ],
)
def test_a_mistake_of_the_recipe_is_told_before_the_maps_are_computed(
    data: Path, tmp_path: Path, change: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    assert ablate(data, tmp_path / "out", "--trunk", str(bundle), "-s", change) == 1
    assert sentence in capsys.readouterr().err and not [*(tmp_path / "out").iterdir()]


def test_a_file_that_is_no_picture_and_a_place_for_no_output_are_told_before_the_maps_are_computed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, other = write_tiny_bundle(tmp_path / "bundle"), tmp_path / "data"
    shutil.copytree(data, other)
    read_samples(other)[-1].path.write_text("no picture")
    assert ablate(other, tmp_path / "out", "--trunk", str(bundle)) == 1
    assert "1 of 32 pictures cannot be read" in capsys.readouterr().err and not [*(tmp_path / "out").iterdir()]
    (tmp_path / "file").touch()
    assert ablate(data, tmp_path / "file" / "out", "--trunk", str(bundle)) == 1
    assert "no file can be written there (Not a directory): choose another folder" in capsys.readouterr().err


def test_the_folder_of_a_model_gets_no_further_files(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = write_tiny_bundle(tmp_path / "one"), write_tiny_bundle(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    for out, sentence in (
        (one, "is the folder of a bundle or a run: choose another folder"),
        (other, "is the folder of a bundle or a run: choose another folder"),
        (one / "heads", f"lies in {one}, the folder of a model that is read: choose another folder"),
    ):
        assert ablate(data, out, "--trunk", str(one)) == 1
        assert sentence in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before
