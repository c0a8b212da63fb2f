"""Distillation: who learns what from whom, exactly so after a resume, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from tests.support.bundles import random_model, tiny_architecture, write_tiny_bundle
from tests.training.loop.test_best import fit, records
from tests.training.loop.test_resume import same
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import DataError, load_samples, read_samples
from training.loop.distil import Distiller, distillers_of
from training.loop.loss import Loss
from training.loop.optim import build_optimizer, set_rates
from training.loop.processes import Processes
from training.loop.stages import apply_stage
from training.loop.trained import LearnedPictures, TrainedModel
from training.loop.update import Updater
from training.recipe.config import Distil, ModelConfig, Recipe, RecipeError
from training.recipe.load import load_recipe
from training.runs.unlabelled import read_unlabelled

Fields = dict[str, Any]
TINY: Fields = tiny_architecture().model_dump() | {
    **{"image_size": (64, 64), "dropout": 0.0},
    "swin_options": {
        "embed_dim": 8,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 2],
        "window_size": 2,
        "drop_path_rate": 0.0,
    },
}
LABELS = [0, 1] * 4
TAUGHT: Fields = {"name": "taught", "epochs": 1, "cnn": "frozen", "head": "frozen", "distil": {"from": "cnn"}}


def recipe_of(stage: Fields, **changes: Any) -> Recipe:
    stages = [stage, {"name": "then", "epochs": 1}]
    return Recipe.model_validate({"name": "distilled", "model": TINY, "batch_size": 8, "stages": stages, **changes})


def updater_of(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Updater:
    """In the first stage, as a run begins it."""
    torch.manual_seed(recipe.seed)
    model = random_model(**recipe.model.model_dump()).to(dtype)
    distillers = distillers_of(recipe, model, ("benign", "malignant"), [])[0].to(dtype)
    apply_stage(model, recipe.stages[0], recipe.batch_norm)
    loss = Loss.from_labels(LABELS, 2, recipe.imbalance, recipe.label_smoothing)
    adam = build_optimizer(model, recipe, distillers)
    return Updater(model, adam, loss, recipe, Processes(0, 1, torch.device("cpu")), distillers)


def trained(model: CNNViTFusion) -> TrainedModel:
    return TrainedModel(model, ModelConfig(), ("a", "b"), None, "", LearnedPictures(frozenset(), frozenset(), None))


def pictures(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cnn, swin = (torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=generator) for _ in "ab")
    return cnn, swin, torch.tensor(LABELS)


def test_only_the_transformer_learns_from_the_cnn_and_no_label_has_a_part_in_it() -> None:
    recipe = recipe_of(TAUGHT, rates={"swin": 3e-3, "head": 3e-3, "norm_and_bias": 3e-3}, warmup_share=0)
    updater, losses = updater_of(recipe), []
    before = {name: value.clone() for name, value in updater.model.state_dict().items()}
    cnn, swin, labels = pictures()
    for update in range(40):
        set_rates(updater.adam, recipe, update, 80)
        sums = updater.gradients([(cnn, swin, labels)], labels.tolist(), 0, update)
        assert sums.loss == pytest.approx(sums.distilled) and updater.apply()
        losses.append(sums.loss)
    assert losses[-1] < 0.7 * losses[0]
    moved = {name for name, value in updater.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"swin.{name}" for name, _ in updater.model.swin.named_parameters()}
    first, second = (
        updater.gradients([(cnn, swin, chosen)], chosen.tolist(), 0, 0).loss for chosen in (labels, 1 - labels)
    )
    assert first == second


@pytest.mark.parametrize("what", ["map", "logits"])
def test_parts_of_a_batch_add_up_to_the_batch(what: str, tmp_path: Path) -> None:
    teacher = write_tiny_bundle(tmp_path / "teacher", seed=3)
    distil = {"from": str(teacher), "what": what, "weight": 0.7}
    stage = {"name": "taught", "epochs": 1, "cnn": "all", "distil": distil}
    found = []
    for accumulate in (1, 4):
        recipe = recipe_of(stage, accumulate=accumulate, augmentation={"mixup_alpha": 0})
        updater = updater_of(recipe, torch.float64)
        for one in updater.distillers.children():
            assert isinstance(one, Distiller)
            one._teacher[0].double()
        parts = list(zip(*(values.chunk(accumulate) for values in pictures()), strict=True))
        sums = updater.gradients(parts, LABELS, 0, 0)
        gradients = torch.cat([p.grad.flatten() for p in updater._parameters if p.grad is not None])
        found.append((sums.loss, sums.distilled, gradients))
    (loss, distilled, gradients), (other_loss, other_distilled, others) = found
    assert other_loss == pytest.approx(loss) and other_distilled == pytest.approx(distilled) and 0 < distilled < loss
    assert torch.allclose(others, gradients, rtol=1e-9, atol=1e-12)


def test_the_losses_are_those_of_their_papers() -> None:
    model, teacher = random_model(**TINY), random_model(seed=1, **TINY)
    image = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        maps = model.encode(image)
        wanted = functional.layer_norm(maps["cnn"].permute(0, 2, 3, 1), (maps["cnn"].shape[1],))
        own = Distiller(Distil.model_validate({"from": "cnn"}), model, None)
        assert own.projection is not None
        cells = own.projection(maps["swin"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        cells = functional.interpolate(cells, wanted.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
        gap = (cells - wanted).abs()
        expected = torch.where(gap < 2, gap.square() / 4, gap - 1).mean(dim=(1, 2, 3)).sum()
        assert float(own(image, maps, None)) == pytest.approx(float(expected), rel=1e-5)
        taught = Distiller(
            Distil.model_validate({"from": "/teacher", "what": "logits"}),
            model,
            trained(teacher),
        )
        wanted_logits, logits = teacher(image), model(image)
        divergence = torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=wanted_logits), torch.distributions.Categorical(logits=logits)
        )
        assert float(taught(image, maps, logits)) == pytest.approx(float(divergence.sum()), rel=1e-4)
        assert float(taught(image, maps, wanted_logits)) == pytest.approx(0, abs=1e-6)
    assert "_teacher" not in str([*taught.state_dict()]) and not list(taught.parameters())


def test_a_branch_alone_can_be_taught_by_another_model() -> None:
    """A Swin without a CNN learns from the map of another model's CNN, whose grid differs."""
    student = CNNViTFusion(2, **(TINY | {"fusion": "swin"}))
    distiller = Distiller(
        Distil.model_validate({"from": "/teacher"}),
        student,
        trained(random_model(**TINY)),
    )
    image = torch.rand(2, 3, 64, 64)
    distiller(image, FeatureMaps(student.encode(image)), None).backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())


STAGES = (
    "stages=[{name: taught, epochs: 2, cnn: frozen, head: frozen, distil: {from: cnn, unlabelled: UNLABELLED}}, "
    "{name: both, epochs: 1, distil: {from: TEACHER, what: logits, weight: 0.5}}]"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil") / "data"
    draw_dataset(folder, 32, seed=5)
    return folder


@pytest.fixture(scope="module")
def stages(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stages with a teacher, and with pictures without labels, of which some are those of val."""
    folder = tmp_path_factory.mktemp("teachers")
    draw_dataset(folder / "drawn", 8, seed=9)
    others = folder / "unlabelled"
    others.mkdir()
    for number, picture in enumerate([*(folder / "drawn").glob("*/*/*.png"), *(data / "val").glob("*/*.png")]):
        shutil.copy(picture, others / f"{number}.png")
    assert fit(data, folder / "teacher", "stages=[{name: all, epochs: 1}]") == 0
    return STAGES.replace("UNLABELLED", str(others)).replace("TEACHER", str(folder / "teacher"))


def test_a_run_with_teachers_and_pictures_without_labels_is_the_same_when_resumed(
    data: Path, stages: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert fit(data, whole, stages, "log_updates=1") == 0
    assert (
        "8 pictures without labels" in (said := capsys.readouterr().out) and "8 others are in the data itself" in said
    )
    samples = load_samples(whole / "samples.csv")
    assert sum(sample.split == "unlabelled" for sample in samples) == 8
    updates = records(whole, "update")
    assert all(
        record["distilled"] == pytest.approx(record["loss"]) for record in updates if record["stage"] == "taught"
    )
    assert all(0 < record["distilled"] < record["loss"] for record in updates if record["stage"] == "both")
    for left in (1, 2, 3, 4):
        shutil.rmtree(resumed, ignore_errors=True)
        shutil.copytree(whole, resumed)
        (resumed / "ema.safetensors").unlink()
        for checkpoint in sorted((resumed / "checkpoints").glob("*.pt"))[left:]:
            checkpoint.unlink()
        assert fit(data, resumed, stages, "log_updates=1", resume=True) == 0
        same(whole, resumed)


def test_another_teacher_is_noticed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taught = f"stages=[{{name: both, epochs: 1, distil: {{from: {tmp_path / 'teacher'}, what: logits}}}}]"
    plain = "stages=[{name: all, epochs: 1}]"
    assert fit(data, tmp_path / "teacher", plain) == 0 and fit(data, tmp_path / "run", taught) == 0
    (tmp_path / "run" / "ema.safetensors").unlink()
    shutil.rmtree(tmp_path / "teacher")
    assert fit(data, tmp_path / "teacher", plain, "seed=9") == 0
    assert fit(data, tmp_path / "run", taught, resume=True) == 1
    assert "a teacher has other weights than when the run started" in capsys.readouterr().err


def test_epochs_without_labels_are_never_the_best(data: Path, tmp_path: Path) -> None:
    stages = (
        "stages=[{name: taught, epochs: 3, cnn: frozen, head: frozen, distil: {from: cnn}}, {name: all, epochs: 1}]"
    )
    assert fit(data, tmp_path / "run", stages, "keep=best") == 0
    (end,) = records(tmp_path / "run", "end")
    assert end["kept_epoch"] == 3


def test_stages_without_labels_do_not_count_for_early_stopping(data: Path, tmp_path: Path) -> None:
    taught = "{name: taught, epochs: 3, cnn: frozen, head: frozen, distil: {from: cnn}}"
    still = [f"rates.{part}=1e-30" for part in ("cnn", "swin", "head", "norm_and_bias")]
    stages = f"stages=[{taught}, {{name: all, epochs: 6}}]"
    assert fit(data, tmp_path / "run", stages, "early_stopping=2", *still) == 0
    # The first epoch with labels is the best, and two were not better.
    assert [record["epoch"] for record in records(tmp_path / "run", "epoch")] == [0, 1, 2, 3, 4, 5]


def test_no_teacher_has_seen_what_the_student_is_judged_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data without a split of its own is split by the seed of the recipe."""
    for picture in data.glob("*/*/*.png"):
        place = tmp_path / "data" / picture.parent.name / f"{picture.parent.parent.name}-{picture.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)
    whole, teacher = tmp_path / "data", tmp_path / "teacher"
    assert fit(whole, teacher, "stages=[{name: all, epochs: 1}]") == 0
    bundle = tmp_path / "bundle"
    assert main(["export", str(teacher), str(bundle), "--positive", "malignant"]) == 0
    capsys.readouterr()
    for number, (start, distil) in enumerate((("", "FROM"), ("FROM", ""))):
        stage = "{name: all, epochs: 1, distil: {from: FROM, what: logits}}" if distil else "{name: all, epochs: 1}"
        changes = [f"stages=[{stage}]", *(["start.bundle=FROM"] if start else [])]
        for name, seed, sentence in (
            (teacher, 1, "pictures that are kept for val, test or calibration, such as"),
            (teacher, 0, None),
            (bundle, 1, None),
        ):
            given = [change.replace("FROM", str(name)) for change in changes]
            status = fit(whole, tmp_path / f"{number}-{name.name}-{seed}", *given, f"seed={seed}")
            said = capsys.readouterr()
            assert status == (1 if sentence else 0) and (sentence or "") in said.err
            assert ("a bundle does not say which pictures its model learned from" in said.out) == (name is bundle)


PLAIN = "stages=[{name: all, epochs: 1}]"


def taught_by(teacher: Path) -> tuple[str, str]:
    """The change of a recipe by which a run is taught by a teacher, and that by which it starts from it."""
    return f"stages=[{{name: all, epochs: 1, distil: {{from: {teacher}, what: logits}}}}]", f"start.bundle={teacher}"


def exchanged(data: Path, copy: Path) -> Path:
    """Copies of the data's pictures by other names, of which those of val are for training and the other way around."""
    rows = ["path,label,split"]
    for number, sample in enumerate(read_samples(data)):
        copy.mkdir(exist_ok=True)
        shutil.copy(sample.path, copy / f"{number}.png")
        rows.append(f"{number}.png,{sample.label},{'val' if sample.split == 'train' else 'train'}")
    (copy / "labels.csv").write_text("\n".join(rows))
    return copy


def test_copies_of_what_a_teacher_has_learned_from_are_known_by_their_content(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher"
    assert fit(exchanged(data, tmp_path / "copy"), teacher, PLAIN) == 0
    kept = sum(sample.split == "val" for sample in read_samples(data))
    for number, change in enumerate(taught_by(teacher)):
        assert fit(data, tmp_path / str(number), PLAIN, change) == 1
        assert f"its model has learned from {kept} of the pictures that are kept" in capsys.readouterr().err
    (teacher / "contents.csv").unlink()  # as in a run of an earlier version
    assert fit(data, tmp_path / "before", PLAIN, taught_by(teacher)[0]) == 1
    assert f"its model has learned from {kept} of the pictures that are kept" in capsys.readouterr().err


def test_copies_on_both_sides_of_one_split_are_no_fault_of_a_teacher(data: Path, tmp_path: Path) -> None:
    both, teacher = tmp_path / "both", tmp_path / "teacher"
    shutil.copytree(data, both)
    picture = next(sample for sample in read_samples(both) if sample.split == "val")
    shutil.copy(picture.path, both / "copy.png")
    with (both / "labels.csv").open("a") as table:
        table.write(f"copy.png,{picture.label},copy,train,\n")
    assert fit(both, teacher, PLAIN) == 0
    assert fit(both, tmp_path / "run", taught_by(teacher)[0]) == 0


@pytest.mark.parametrize("heir_by", ["distil", "start.bundle"])
def test_what_a_run_has_from_another_model_is_said_and_what_it_learned_itself_is_refused(
    heir_by: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, heir = tmp_path / "first", tmp_path / "heir"
    assert fit(data, first, PLAIN) == 0
    assert fit(data, heir, PLAIN, taught_by(first)[heir_by == "start.bundle"]) == 0
    capsys.readouterr()
    for name, remarked in ((first, False), (heir, True)):
        for number, change in enumerate(taught_by(name)):
            assert fit(data, tmp_path / f"{name.name}-{number}", PLAIN, change) == 0
            said = capsys.readouterr().out
            assert ("was taught by one" in said and "worth nothing if val was among them" in said) == remarked
    other = exchanged(data, tmp_path / "copy")
    assert fit(other, tmp_path / "refused", PLAIN, taught_by(heir)[0]) == 1
    assert "of the pictures that are kept for val" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_exported_when_its_pictures_without_labels_are_gone(data: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", 8, seed=9)
    others = tmp_path / "others"
    others.mkdir()
    for number, picture in enumerate((tmp_path / "drawn").glob("*/*/*.png")):
        shutil.copy(picture, others / f"{number}.png")
    taught = f"{{name: taught, epochs: 1, cnn: frozen, head: frozen, distil: {{from: cnn, unlabelled: {others}}}}}"
    assert fit(data, tmp_path / "run", f"stages=[{taught}, {{name: all, epochs: 1}}]") == 0
    shutil.rmtree(others)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--positive", "malignant"]) == 0
    assert main(["evaluate", str(tmp_path / "bundle"), str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0


def test_masks_and_what_is_no_picture_are_not_learned_from(data: Path, tmp_path: Path) -> None:
    samples = read_samples(data)
    masks, empty, plain = (tmp_path / name for name in ("masks", "empty", "plain"))
    picture = next(data.glob("*/*/*.png"))
    shutil.copytree(data / "masks", masks)
    empty.mkdir()
    plain.write_text("name\nx\n")
    unnamed = tmp_path / "labels.csv"
    unnamed.write_text(f"path,label\n{picture.name},a\n,b\n")
    for path, sentence in (
        (masks, "has no pictures that are not in the data itself"),
        (empty, "has no pictures: give another folder"),
        (picture, "is a picture: give a folder of pictures"),
        (plain, "has no column path: it needs path and has name: .*if name is the path, call it path"),
        (unnamed, "labels.csv, line 3: row 2 has no path"),
        (tmp_path / "none", "there is no folder or table"),
    ):
        with pytest.raises(DataError, match=sentence):
            read_unlabelled(path, samples)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"distil": {"from": 5}}, "give cnn, or the folder of a bundle or a run"),
        ({"cnn": "frozen", "head": "frozen", "distil": {"from": "cnn"}}, "the head is frozen in all of them"),
        ({"distil": {"from": "cnn", "what": "logits"}}, "a CNN has no logits of its own"),
        ({"head": "frozen"}, "head: frozen leaves the labels out, so that distil"),
        ({"head": "frozen", "distil": {"from": "cnn"}}, "nothing teaches the CNN: use cnn: frozen"),
        ({"swin": "frozen", "distil": {"from": "cnn"}}, "swin: frozen cannot learn from a map"),
        ({"distil": {"from": "cnn", "unlabelled": "x"}}, "these pictures have no labels for the head"),
        ({"distil": {"from": ""}}, "it is empty"),
    ],
)
def test_stages_that_could_teach_nothing_are_refused(stage: Fields, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Recipe.model_validate({"name": "wrong", "stages": [{"name": "one", "epochs": 1, **stage}]})


@pytest.mark.parametrize(
    ("model", "distil", "sentence"),
    [
        ({"fusion": "cnn"}, {"from": "cnn"}, "fusion cnn has no transformer"),
        ({"fusion": "swin"}, {"from": "cnn"}, "fusion swin has no CNN: give the folder"),
        ({"image_size": (32, 32)}, {"from": "TEACHER"}, r"the teacher sees \(64, 64\) px, but the model \(32, 32\)"),
        (
            {},
            {"from": "TEACHER", "what": "logits"},
            "the teacher's classes are benign, malignant, but those of the data",
        ),
        ({}, {"from": "/no/such/folder"}, "is no folder: give that of a bundle, or of a finished run"),
    ],
)
def test_what_model_and_teacher_lack_is_told(model: Fields, distil: Fields, sentence: str, tmp_path: Path) -> None:
    teacher = write_tiny_bundle(tmp_path / "teacher")
    stage = {"name": "one", "epochs": 1, "distil": distil | {"from": distil["from"].replace("TEACHER", str(teacher))}}
    recipe = Recipe.model_validate({"name": "wrong", "model": TINY | model, "stages": [stage]})
    with pytest.raises(ValueError, match=sentence) as refusal:
        distillers_of(recipe, CNNViTFusion(2, **recipe.model.model_dump()), ("left", "right"), [])
    assert isinstance(refusal.value, RecipeError) or "no folder" in sentence


@pytest.mark.slow
def test_a_bundle_says_what_taught_it_without_folders_and_a_recipe_comes_back_as_it_was(
    data: Path, stages: str, tmp_path: Path
) -> None:
    assert fit(data, tmp_path / "run", stages) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--positive", "malignant"]) == 0
    recipe = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["recipe"]
    taught, both = (stage["distil"] for stage in recipe["stages"])
    assert (taught["from"], taught["unlabelled"], both["from"]) == ("cnn", "unlabelled", "teacher")
    assert str(tmp_path.parent) not in json.dumps(recipe)
    stored = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert Recipe.model_validate(stored.model_dump(mode="json")) == stored
