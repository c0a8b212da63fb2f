"""A bundle is moved to a new site: what was fitted is fitted anew, and what was trained stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from app.bundles.manifest import MANIFEST, TRUST
from app.bundles.reader import read_bundle
from app.errors import BundleError
from tests.support.bundles import edit, write_tiny_bundle
from tests.support.evaluated import evaluated
from tests.support.trusted import write_trusted
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import DataError
from training.metrics.calibration import youden_threshold
from training.output import OutputError
from training.trust.fit import TrustProblem
from training.trust.recalibrate import RECALIBRATED, Recalibrated, recalibrate

FITTED_ANEW = {"calibration", "decision", "metrics", "created", "parent", "notes", "trust", "files"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 pictures of another camera, blurred and with another white balance, most of them benign, without a split."""
    folder = tmp_path_factory.mktemp("site")
    draw_dataset(folder / "drawn", 300, seed=3)
    kept = {"benign": 120, "malignant": 30}
    for name, count in kept.items():
        (folder / "local" / name).mkdir(parents=True)
        for number, picture in enumerate(sorted((folder / "drawn").glob(f"*/{name}/*.png"))[:count]):
            image = Image.open(picture).convert("RGB").filter(ImageFilter.GaussianBlur(1))
            tinted = np.clip(np.asarray(image) * np.array([1.1, 1.0, 0.8]), 0, 255).astype(np.uint8)
            Image.fromarray(tinted).save(folder / "local" / name / f"{number}.png")
    return folder / "local"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    return write_trusted(write_tiny_bundle(folder / "plain"), folder / "bundle")


@pytest.fixture(scope="module")
def moved(parent: Path, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Recalibrated:
    return recalibrate(parent, tmp_path_factory.mktemp("moved") / "bundle", site, None)


def test_no_weight_and_no_graph_changes_and_the_manifest_names_the_parent(moved: Recalibrated, parent: Path) -> None:
    before, after = read_bundle(parent), moved.bundle
    assert after.manifest.parent == before.sha256 != after.sha256
    assert before.manifest.parent is None
    assert {**after.manifest.files, TRUST: None} == {**before.manifest.files, TRUST: None}
    for name in {*before.manifest.files} - {TRUST}:
        assert (after.path / name).read_bytes() == (parent / name).read_bytes()
    kept = before.manifest.model_dump(exclude=FITTED_ANEW)
    assert after.manifest.model_dump(exclude=FITTED_ANEW) == kept
    for branch in before.manifest.branches:
        for part in ("mean", "basis", "scale"):
            name = f"novelty.{branch}.{part}"
            np.testing.assert_array_equal(after.trust[name], before.trust[name])
    assert len(after.trust["novelty.calibration"]) == 150


def test_threshold_and_temperature_are_those_of_the_new_pictures(
    moved: Recalibrated, site: Path, tmp_path: Path
) -> None:
    manifest = moved.bundle.manifest
    assert manifest.decision is not None
    assert manifest.decision.chosen_on == manifest.calibration.chosen_on == "all pictures (150 pictures)"
    found = evaluated(moved.bundle.path, site, None, tmp_path)
    positive = np.array(found.column("label")) == "malignant"
    assert manifest.decision.threshold == pytest.approx(youden_threshold(found.probabilities[:, 1], positive), abs=1e-3)
    figures = {name: figure["value"] for name, figure in found.document["figures"].items()}
    for name, value in manifest.metrics.values.items():
        assert value == pytest.approx(figures[name], abs=1e-3)
    assert (manifest.metrics.split, manifest.metrics.pictures) == ("all pictures", 150)
    (note,) = (note for note in manifest.notes if note.startswith(RECALIBRATED))
    assert "150 pictures of another source" in note


def test_probabilities_are_better_calibrated_than_before(moved: Recalibrated, parent: Path, site: Path) -> None:
    """On a model that knows nothing, too: its probabilities become the site's shares of the classes."""
    assert moved.fit.section.figures["calibration_error"] < 0.5 * moved.error_before
    assert f"calibration error: {moved.error_before:.4f} before" in moved.text()


def test_a_bundle_is_recalibrated_again_from_its_own_digest(moved: Recalibrated, site: Path, tmp_path: Path) -> None:
    again = recalibrate(moved.bundle.path, tmp_path / "again", site, None)
    assert again.bundle.manifest.parent == moved.bundle.sha256
    assert sum(note.startswith(RECALIBRATED) for note in again.bundle.manifest.notes) == 1


def test_the_command_writes_what_the_function_does_and_says_what_changed(
    parent: Path, site: Path, moved: Recalibrated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recalibrate", str(parent), str(site), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: {moved.bundle.sha256}\n{moved.text()}\n"
    assert (tmp_path / "out" / MANIFEST).read_bytes() == (moved.bundle.path / MANIFEST).read_bytes()


def test_what_cannot_be_recalibrated_is_refused(parent: Path, site: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists and is not empty"):
        recalibrate(parent, parent, site, None)
    with pytest.raises(TrustProblem, match="no trust part whose novelty score could be kept"):
        recalibrate(write_tiny_bundle(tmp_path / "plain"), tmp_path / "out", site, None)
    draw_dataset(tmp_path / "few", 8, seed=0)
    with pytest.raises(TrustProblem, match="class benign has 1 calibration groups, but 5 are needed"):
        recalibrate(parent, tmp_path / "out", tmp_path / "few", None)
    shutil.copytree(site / "benign", tmp_path / "one" / "benign")
    (tmp_path / "one" / "malignant").mkdir()
    with pytest.raises((TrustProblem, DataError), match="malignant"):
        recalibrate(parent, tmp_path / "out", tmp_path / "one", None)
    table = "path,label\n" + "".join(f"one/benign/{number}.png,benign\n" for number in range(40))
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(TrustProblem, match="class malignant has 0 calibration groups, but 5 are needed"):
        recalibrate(parent, tmp_path / "out", tmp_path / "labels.csv", None)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_data(parent: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("recalibrate", "trust"):
        assert main([command, str(parent), str(site), str(site / "new")]) == 1
        assert "lies in the data" in capsys.readouterr().err
    assert not (site / "new").exists()


@pytest.mark.parametrize("value", ["0" * 63, 7, "none"])
def test_a_parent_is_a_digest(tmp_path: Path, value: object) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    edit(folder, lambda fields: fields.update(parent=value))
    with pytest.raises(BundleError, match="parent"):
        read_bundle(folder)
