"""The whole way of a new model: drawn pictures, one short training, a bundle, an answer. And what a run must keep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from app.models.cnnswin import CNNViTFusion
from tests.bundles import tiny_architecture
from training.__main__ import main
from training.augment import TwoViews, mixup
from training.config import Augmentation, Recipe, RecipeError, load_recipe
from training.loop import as_input
from training.optim import optimizer, warmup_cosine
from training.pretrained import WeightsError, load_backbone

CARD = {"name": "drawn", "version": "1", "licence": "MIT", "data": "drawn pictures", "notes": ["For tests."]}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    model = tiny_architecture().model_dump() | {"image_size": (64, 64)}
    return Recipe.model_validate({"name": "tiny", "model": model, "epochs": 2, "batch_size": 8})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    """Drawn data, a recipe, a card, and two runs of the same recipe."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    assert main(["draw-data", str(folder / "data"), "--count", "32"]) == 0
    for run in ("first", "second"):
        arguments = ["--data", str(folder / "data"), "--out", str(folder / run)]
        assert main(["fit", str(folder / "tiny.yaml"), *arguments]) == 0
    return folder


def test_a_run_becomes_a_bundle_that_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from app.__main__ import main as serve

    arguments = ["--data", str(folder / "data"), "--card", str(folder / "card.yaml")]
    assert main(["export", str(folder / "first"), str(folder / "bundle"), *arguments]) == 0
    picture = next((folder / "data" / "val").rglob("*.png"))
    capsys.readouterr()
    assert serve(["predict", str(picture), "--bundle", str(folder / "bundle"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"benign", "malignant"}


def test_the_log_has_a_line_an_epoch_and_the_same_seed_gives_the_same_weights(folder: Path) -> None:
    logs = [[json.loads(line) for line in (folder / run / "log.jsonl").open()] for run in ("first", "second")]
    assert [record["epoch"] for record in logs[0]] == [0, 1]
    first, second = (safetensors.torch.load_file(folder / run / "ema.safetensors") for run in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_mistake_is_told_in_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "no-such-recipe", "--data", str(folder), "--out", str(folder / "x")]) == 1
    assert "no-such-recipe" in capsys.readouterr().err
    assert main(["fit", "demo", "--data", str(folder / "nowhere"), "--out", str(folder / "x")]) == 1
    assert "labels.csv" in capsys.readouterr().err


def test_an_unknown_key_in_a_recipe_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: wrong\nbatch_sise: 3\n")
    with pytest.raises(RecipeError, match="batch_sise"):
        load_recipe(str(path))


def test_both_branches_see_the_same_geometry_in_their_own_colours() -> None:
    marker = torch.zeros(3, 224, 224, dtype=torch.uint8)
    marker[:, 60:75, 150:165] = 200
    torch.manual_seed(3)
    for _ in range(5):
        cnn, swin = (view.float().sum(dim=0) for view in TwoViews(Augmentation(), (224, 224))(marker))
        centres = [torch.nonzero(view > view.max() / 2).float().mean(dim=0) for view in (cnn, swin)]
        assert torch.allclose(centres[0], centres[1], atol=1)
        assert not torch.equal(cnn, swin)


def test_the_models_input_is_the_same_picture_channels_first() -> None:
    grey = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3) * 2
    floats = as_input(torch.from_numpy(grey).permute(0, 3, 1, 2))
    assert floats.shape == (2, 3, 4, 5) and floats.dtype == torch.float32
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert float(floats[1, 2, 3, 4]) * 255 == pytest.approx(grey[1, 3, 4, 2])
    assert np.array_equal(np.rint(floats.numpy() * 255).transpose(0, 2, 3, 1), grey)


def test_mixup_takes_one_weight_and_one_partner_for_both_branches_and_the_targets() -> None:
    size = 6
    identity = torch.arange(size).float()
    images = identity.view(size, 1, 1, 1).expand(size, 3, 2, 2)
    cnn, swin, targets = mixup(images, images * 10, torch.eye(size), 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(swin, cnn * 10)
    torch.testing.assert_close(targets @ identity, cnn[:, 0, 0, 0])
    assert not torch.equal(targets, torch.eye(size))


def test_every_weight_is_in_one_group_and_norms_biases_and_positions_never_decay(recipe: Recipe) -> None:
    model = CNNViTFusion(2, **recipe.model.model_dump())
    groups = optimizer(model, recipe).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in model.parameters()}
    decaying = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        spared = name.endswith(("bias", "position", "bias_table")) or "norm" in name or ".bn" in name
        assert (id(parameter) in decaying) is not spared, name


def test_the_rates_warm_up_in_a_line_and_fall_in_a_cosine() -> None:
    factors = [warmup_cosine(10, 110)(update) for update in range(110)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert factors[60] == pytest.approx(0.5)
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)


def test_a_backbone_takes_weights_by_name_or_by_order_and_no_others(tmp_path: Path, recipe: Recipe) -> None:
    name = "test_efficientnet"
    source, target = (CNNViTFusion(2, **recipe.model.model_dump()).cnn for _ in range(2))
    assert source is not None and target is not None
    import timm

    whole = timm.create_model(name, pretrained=False).state_dict()
    torch.save({f"renamed.{key}": value for key, value in whole.items()}, tmp_path / "renamed.pth")
    load_backbone(target, name, tmp_path / "renamed.pth")
    assert all(torch.equal(value, whole[key]) for key, value in target.state_dict().items())
    torch.save(dict(list(whole.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"short\.pth"):
        load_backbone(target, name, tmp_path / "short.pth")
