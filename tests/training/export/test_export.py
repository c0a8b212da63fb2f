"""What a run is exported as: a verified bundle whose figures anyone can compute again from the bundle itself."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from sklearn.metrics import accuracy_score, log_loss, recall_score, roc_auc_score, roc_curve

import training
from app.bundles.manifest import MANIFEST, Cases, Description
from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from app.engines.protocol import Engine
from app.errors import BundleError
from app.models.cnnswin import FUSIONS, Fusion
from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare
from app.shapes import Bool, Float, UInt8
from app.trust.fitted import trust_of
from tests.support.bundles import describe, tiny_architecture, tiny_model, tiny_reference
from training.data.draw import draw_dataset
from training.data.samples import load_samples, read_samples, write_samples
from training.export.export import Card, ExportError, _positive_class, export, load_card, write_bundle
from training.output import OutputError
from training.recipe.config import ModelConfig, Recipe, Start, Starts
from training.runs.run import RunError
from training.trust.answers import Answers, calibrate, metrics_of
from training.trust.write import NO_TRUST

CARD = Card(
    name="drawn", version="1", positive="malignant", licence="MIT", data="drawn pictures", notes=("For tests.",)
)


@dataclass(frozen=True)
class Exported:
    """A run, its data, and the bundle made of it."""

    run: Path
    data: Path
    bundle: Bundle
    engine: Engine

    def pictures(self, split: str) -> tuple[UInt8[np.ndarray, "n h w 3"], Bool[np.ndarray, " n"]]:
        """The pictures as model input, and which are malignant."""
        with (self.data / "labels.csv").open(newline="") as table:
            rows = [row for row in csv.DictReader(table) if row["split"] == split]
        pictures = [decode((self.data / row["path"]).read_bytes(), Limits()) for row in rows]
        images = np.stack([prepare(picture, (64, 64)).image for picture in pictures])
        return images, np.array([row["label"] == "malignant" for row in rows])

    def logits(self, split: str) -> Float[np.ndarray, "n k"]:
        """Logits from the written bundle, one picture at a time."""
        images, _ = self.pictures(split)
        return np.concatenate([self.engine.classify(self.engine.encode(image[None])) for image in images])


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """By torch, in double precision."""
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


def write_run(run: Path, classes: list[str], data: Path | None = None) -> None:
    """The files that a training run leaves."""
    run.mkdir()
    start = Starts(cnn=Start(weights=Path("/somewhere/of/mine/lite0.pth")))
    model = ModelConfig(**tiny_architecture().model_dump(), image_size=(64, 64))
    recipe = Recipe(name="tiny", model=model, start=start)
    write_samples(read_samples(data) if data else [], run / "samples.csv")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    (run / "classes.json").write_text(json.dumps(classes))
    safetensors.torch.save_model(tiny_model(classes=len(classes), seed=3), str(run / "ema.safetensors"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """96 drawn pictures, and a model that has learnt nothing but, by its seed, has a temperature within the bounds."""
    folder = tmp_path_factory.mktemp("export")
    data, run = folder / "data", folder / "run"
    draw_dataset(data, 96, seed=3)
    write_run(run, ["benign", "malignant"], data)
    bundle = export(run, folder / "out" / "bundle", CARD)
    return Exported(run, data, bundle, load_engine(bundle, "torch"))


def test_figures_are_those_of_the_written_bundle(exported: Exported) -> None:
    manifest, (_, malignant), logits = exported.bundle.manifest, exported.pictures("val"), exported.logits("val")
    assert manifest.decision is not None
    probability = softmax(logits / manifest.calibration.temperature)[:, 1]
    answer = probability >= manifest.decision.threshold
    assert (manifest.metrics.split, manifest.metrics.pictures) == ("val", len(malignant))
    assert manifest.metrics.values == pytest.approx(
        {
            "auroc": roc_auc_score(malignant, logits[:, 1] - logits[:, 0]),
            "accuracy": accuracy_score(malignant, answer),
            "sensitivity": recall_score(malignant, answer),
            "specificity": recall_score(malignant, answer, pos_label=0),
            "nll": log_loss(malignant, probability),
        },
        abs=1e-6,
    )


def test_the_threshold_is_the_best_on_val_by_youdens_index(exported: Exported) -> None:
    (_, malignant), logits = exported.pictures("val"), exported.logits("val")
    false_rate, true_rate, _ = roc_curve(malignant, logits[:, 1] - logits[:, 0])
    values, decision = exported.bundle.manifest.metrics.values, exported.bundle.manifest.decision
    assert values["sensitivity"] + values["specificity"] - 1 == pytest.approx((true_rate - false_rate).max())
    assert decision is not None
    assert (decision.positive, decision.chosen_on) == ("malignant", f"val ({len(malignant)} pictures)")


def test_the_reference_is_the_mean_map_of_the_train_pictures(exported: Exported) -> None:
    images, _ = exported.pictures("train")
    maps = [exported.engine.encode(image[None]) for image in images]
    for branch, mean in exported.bundle.baseline.items():
        own = np.mean([one[branch][0] for one in maps], axis=0)
        np.testing.assert_allclose(mean, own, atol=1e-5 * np.abs(own).max())


def test_the_weights_are_the_runs_averaged_weights_to_fp16_rounding(exported: Exported) -> None:
    trained = safetensors.numpy.load_file(exported.run / "ema.safetensors")
    assert exported.bundle.tensors.keys() == trained.keys()
    for name, values in trained.items():
        np.testing.assert_allclose(exported.bundle.tensors[name].astype(np.float64), values, rtol=2**-11, atol=2**-25)


def test_the_manifest_says_what_was_trained_and_what_the_card_says(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert manifest.classes == ("benign", "malignant")
    assert manifest.architecture == tiny_architecture()
    assert (manifest.input.height_px, manifest.input.width_px) == (64, 64)
    recipe = yaml.safe_load((exported.run / "recipe.yaml").read_text())
    recipe["start"]["cnn"]["weights"] = "lite0.pth"  # of this machine's folders nothing gets out
    assert manifest.recipe == recipe
    assert CARD.model_dump(exclude={"positive", "cases"}).items() <= manifest.model_dump().items()
    assert manifest.cases == Cases(pictures=len(exported.pictures("train")[0]))


def test_the_trust_part_is_fitted_to_val(exported: Exported) -> None:
    trust = exported.bundle.manifest.trust
    assert trust is not None and trust.chosen_on.startswith("val (24 pictures")
    assert trust_of(exported.bundle) is not None


@pytest.mark.slow
@pytest.mark.parametrize("has_calibration", [True, False])
def test_the_trust_part_is_fitted_to_what_was_set_aside_or_its_absence_is_noted(
    exported: Exported, tmp_path: Path, has_calibration: bool
) -> None:
    run = Path(shutil.copytree(exported.run, tmp_path / "run"))
    samples, kept = load_samples(run / "samples.csv"), Counter[tuple[str, str | None]]()
    for number, sample in enumerate(samples):  # four pictures of each class stay in val, too few for a trust part
        kept[sample.label, sample.split] += 1
        if sample.split == "val" and kept[sample.label, "val"] > 4:
            samples[number] = replace(sample, split="calibration" if has_calibration else "test")
    write_samples(samples, run / "samples.csv")
    manifest = export(run, tmp_path / "bundle", CARD).manifest
    assert manifest.decision is not None
    chosen_on = "calibration (16 pictures" if has_calibration else "val (8 pictures"
    assert manifest.calibration.chosen_on.startswith(chosen_on) and manifest.decision.chosen_on.startswith(chosen_on)
    if has_calibration:
        assert manifest.trust is not None and manifest.trust.chosen_on.startswith(chosen_on)
    else:
        assert manifest.trust is None
        (note,) = (note for note in manifest.notes if note.startswith(NO_TRUST))
        assert "calibration groups, but 5 are needed" in note
    assert manifest.metrics.pictures == 8  # of val, in either case


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_tensors_come_back_as_they_were_to_fp16_rounding(tmp_path: Path, fusion: Fusion, classes: int) -> None:
    model = tiny_model(fusion, classes)
    reference, description = tiny_reference(model), describe(fusion, classes)
    write_bundle(model, tmp_path / "new", description, reference, {}, None)
    bundle = read_bundle(tmp_path / "new")

    state = model.state_dict()
    assert bundle.tensors.keys() == state.keys()
    for name, tensor in state.items():
        # half an fp16 step: 2^-11 of the value, and 2^-25 where it is subnormal
        np.testing.assert_allclose(bundle.tensors[name].astype(np.float64), tensor, rtol=2**-11, atol=2**-25)
        assert tensor.is_floating_point() == (bundle.tensors[name].dtype == np.float16)
    assert bundle.baseline.keys() == dict(reference.items()).keys()
    for branch, mean in reference.items():
        np.testing.assert_array_equal(bundle.baseline[branch], mean)
    assert description.model_dump().items() <= bundle.manifest.model_dump().items()
    assert bundle.sha256 == hashlib.sha256((tmp_path / "new" / MANIFEST).read_bytes()).hexdigest()


def test_the_same_parts_make_the_same_bytes(tmp_path: Path) -> None:
    model = tiny_model()
    for name in ("first", "second"):
        write_bundle(model, tmp_path / name, describe(), tiny_reference(model), {}, None)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / n).iterdir()} for n in ("first", "second"))
    assert first == second
    assert first[MANIFEST].startswith(b'{\n  "format": 3,') and first[MANIFEST].endswith(b"}\n")


def test_for_five_classes_figures_are_sklearns_and_there_is_no_threshold() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    logits = rng.normal(size=(200, 5)) + np.eye(5)[labels]
    answers = Answers("val", logits, labels)
    calibration, decision = calibrate(answers, "abcde", None)
    metrics = metrics_of(answers, "abcde", calibration, decision)
    probabilities = softmax(logits / calibration.temperature)
    assert decision is None
    assert metrics.values == pytest.approx(
        {
            "auroc_one_vs_rest": roc_auc_score(labels, probabilities, multi_class="ovr"),
            "accuracy": accuracy_score(labels, logits.argmax(axis=1)),
            "nll": log_loss(labels, probabilities),
        }
    )


def test_either_class_can_be_the_positive_one() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = rng.normal(size=(200, 2)) + np.eye(2)[labels]
    answers, classes = Answers("val", logits, labels), ("no", "yes")
    (calibration, second), (_, first) = (calibrate(answers, classes, name) for name in ("yes", "no"))
    assert first is not None and second is not None
    one, other = (metrics_of(answers, classes, calibration, decision) for decision in (second, first))
    assert (first.positive, second.positive) == ("no", "yes")
    assert one.values["auroc"] == pytest.approx(other.values["auroc"])
    assert (one.values["sensitivity"], one.values["specificity"]) == pytest.approx(
        (other.values["specificity"], other.values["sensitivity"])
    )
    assert first.threshold == pytest.approx(1 - second.threshold)


def test_an_export_never_writes_over_anything(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(OutputError, match="choose another folder"):
            export(tmp_path / "no run", place, CARD)  # refused before anything is computed
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write_bundle(tiny_model(), tmp_path, describe(), tiny_reference(tiny_model()), {}, None)
    assert read_bundle(tmp_path).manifest.name == "tiny"


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (describe(classes=5), "the manifest names 5 classes"),
        (describe(fusion="concat"), "tensor head"),
    ],
)
def test_parts_that_do_not_fit_leave_nothing_behind(tmp_path: Path, description: Description, reason: str) -> None:
    model = tiny_model()
    with pytest.raises(BundleError, match=reason):
        write_bundle(model, tmp_path / "bundle", description, tiny_reference(model), {}, None)
    assert not list(tmp_path.iterdir())


def test_weights_that_fp16_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    reference = tiny_reference(model)
    model.get_parameter("head.classifier.weight").data[0, 0] = 1e5
    with pytest.raises(BundleError, match=r"head\.classifier\.weight holds values that are not finite"):
        write_bundle(model, tmp_path / "bundle", describe(), reference, {}, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["recipe.yaml", "classes.json", "samples.csv", "ema.safetensors"])
def test_a_run_without_its_files_is_refused(exported: Exported, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(exported.run, tmp_path / "run"))
    (run / name).unlink()
    with pytest.raises(RunError, match=f"has no {name}"):
        export(run, tmp_path / "out", CARD)


@pytest.mark.slow
def test_a_bundle_whose_answers_are_not_the_runs_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.export.MAX_LOGIT_ERROR", -1.0)  # even what is equal is too far off
    with pytest.raises(ExportError, match=r"logits differ from the run's by"):
        export(exported.run, tmp_path / "out", CARD)


@pytest.mark.slow
def test_without_a_card_a_bundle_says_that_nothing_was_said(exported: Exported, tmp_path: Path) -> None:
    manifest = export(exported.run, tmp_path / "out", None, "malignant").manifest
    assert (manifest.name, manifest.licence, manifest.data) == ("tiny", "not stated", "not stated")
    assert "without a card" in manifest.notes[0]


def test_an_unknown_positive_class_is_refused(exported: Exported, tmp_path: Path) -> None:
    card = CARD.model_copy(update={"positive": "melanoma"})
    with pytest.raises(ExportError, match="'melanoma' is not one of benign, malignant"):
        export(exported.run, tmp_path / "out", card)


@pytest.mark.parametrize("classes", [["HER2+", "HER2-"], ["benign", "malignant"]])
def test_the_positive_class_of_two_is_asked_for(tmp_path: Path, classes: list[str]) -> None:
    write_run(tmp_path / "run", classes)
    for card in (None, CARD.model_copy(update={"positive": None})):
        with pytest.raises(ExportError, match=re.escape(f"{classes[0]} and {classes[1]}: name the positive one")):
            export(tmp_path / "run", tmp_path / "out", card)
    assert not (tmp_path / "out").exists()


def test_a_card_and_an_option_that_disagree_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ["benign", "malignant"])
    with pytest.raises(ExportError, match="the card names the positive class malignant, and --positive benign"):
        export(tmp_path / "run", tmp_path / "out", CARD, "benign")


def test_a_positive_class_is_found_in_either_form_of_its_name(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "bösartig") for form in ("NFC", "NFD"))
    assert [_positive_class(("gut", nfc), None, nfd), _positive_class(("gut", nfd), nfc, None)] == [nfc, nfd]


def test_a_positive_class_among_three_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ["a", "b", "c"])
    with pytest.raises(ExportError, match="there are 3 classes"):
        export(tmp_path / "run", tmp_path / "out", CARD.model_copy(update={"positive": "a"}))


def test_an_absent_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file"):
        load_card(tmp_path / "card.yaml")


def test_the_demos_card_states_licence_and_limits() -> None:
    card = load_card(Path(training.__path__[0]) / "export" / "demo_card.yaml")
    assert "non-commercial" in card.licence
    assert "doi:10.7910/DVN/DBW86T" in card.data
    assert any("No medical device" in note for note in card.notes)


@pytest.mark.parametrize("text", ["name: x", "a: [", "- list", "", "\x00", "{name: &a x, notes: [*a]}"])
def test_an_unusable_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ExportError, match=r"card\.yaml cannot be used"):
        load_card(tmp_path / "card.yaml")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("version: 1.0", "version: Input should be a valid string, so put it in quotes (it is 1.0)"),
        ("name: true", "name: Input should be a valid string, so put it in quotes (it is True)"),
        ("positive: 1", "positive: Input should be a valid string, so put it in quotes (it is 1)"),
        ("notes: one", "notes: Input should be a list (it is 'one')"),
        ("notes: [one, 2]", "notes.1: Input should be a valid string, so put it in quotes (it is 2)"),
        ("licence: null", "licence: Input should be a valid string (it is None)"),
        ('data: "\\u200b"', "data: it shows nothing"),
        ("licence: {a: b}", "licence: Input should be a valid string"),
        ("licenze: mine", "unknown key licenze: did you mean licence?"),
    ],
)
def test_what_is_wrong_in_a_card_is_said_by_its_key(change: str, sentence: str, tmp_path: Path) -> None:
    lines = {
        "name": "name: n",
        "version": 'version: "1"',
        "licence": "licence: l",
        "data": "data: d",
        "notes": "notes: []",
    }
    (tmp_path / "card.yaml").write_text("\n".join((lines | {change.partition(":")[0]: change}).values()))
    with pytest.raises(ExportError, match=rf"card\.yaml cannot be used: {re.escape(sentence)}"):
        load_card(tmp_path / "card.yaml")
    (tmp_path / "card.yaml").write_text("\n".join(lines.values()))
    assert load_card(tmp_path / "card.yaml").version == "1"


def spoiled(exported: Exported, folder: Path, tensor: str, value: float) -> Path:
    """A copy of the run with another value in one of its averaged weights."""
    run = Path(shutil.copytree(exported.run, folder / "run"))
    weights = safetensors.torch.load_file(run / "ema.safetensors")
    weights[tensor].view(-1)[0] = value
    safetensors.torch.save_file(weights, run / "ema.safetensors")
    return run


@pytest.mark.parametrize("tensor", ["head.classifier.weight", "cnn.bn1.running_var", "swin.norm.bias"])
@pytest.mark.parametrize(
    ("value", "reason"), [(math.nan, "the run has diverged"), (-math.inf, "the run has diverged"), (1e5, "fp16")]
)
def test_a_diverged_run_is_refused_by_its_tensor(
    exported: Exported, tmp_path: Path, tensor: str, value: float, reason: str
) -> None:
    with pytest.raises((RunError, ExportError), match=rf"{re.escape(tensor)} has values .*{reason}"):
        export(spoiled(exported, tmp_path, tensor, value), tmp_path / "bundle", CARD)
    assert not (tmp_path / "bundle").exists()


def test_a_model_that_gives_every_picture_the_same_answer_is_refused(exported: Exported, tmp_path: Path) -> None:
    run = Path(shutil.copytree(exported.run, tmp_path / "run"))
    weights = safetensors.torch.load_file(run / "ema.safetensors")
    weights["head.classifier.weight"].zero_()
    safetensors.torch.save_file(weights, run / "ema.safetensors")
    with pytest.raises(ExportError, match="tells no classes apart on val: all pictures have the same probability"):
        export(run, tmp_path / "bundle", CARD)


def test_logits_that_overflow_are_refused(exported: Exported, tmp_path: Path) -> None:
    run = spoiled(exported, tmp_path, "cnn.bn1.running_var", -1.0)  # the root of which is no number
    with pytest.raises(ExportError, match="has logits on val that are not finite"):
        export(run, tmp_path / "bundle", CARD)
