"""A trust part is fitted, written, verified and read back; what does not fit is refused by name."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from app.bundles.manifest import TRUST
from app.bundles.reader import Bundle, read_bundle
from app.errors import BundleError
from app.trust.fitted import trust_of
from tests.support.bundles import edit, seal, write_tiny_bundle
from training.data.draw import draw_dataset
from training.data.samples import DataError
from training.output import OutputError
from training.trust.command import AddedTrust, add_trust
from training.trust.fit import TrustProblem


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, 120, seed=0)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("plain") / "bundle")


@pytest.fixture(scope="module")
def added(plain: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> AddedTrust:
    return add_trust(plain, tmp_path_factory.mktemp("trusted") / "bundle", data, None, 0.9)


def test_the_part_is_fitted_to_val_and_everything_else_stays(added: AddedTrust, plain: Path) -> None:
    section, before = added.bundle.manifest.trust, read_bundle(plain)
    assert section is not None and section.chosen_on.startswith("val (30 pictures")
    assert sum(section.pictures.values()) == len({*trust_scores(added.bundle)})
    assert section.coverage <= section.largest_coverage and section.inside == 0.9
    kept = before.manifest.model_dump(exclude={"trust", "files"})
    assert added.bundle.manifest.model_dump(exclude={"trust", "files"}) == kept
    assert {**added.bundle.manifest.files, TRUST: None} == {**before.manifest.files, TRUST: None}
    assert (added.bundle.path / TRUST).stat().st_size <= 2 << 20


def test_a_split_that_was_set_aside_comes_before_val(plain: Path, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    table = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(table.replace(",val", ",calibration"))
    section = add_trust(plain, tmp_path / "bundle", folder, None, 0.9).bundle.manifest.trust
    assert section is not None and section.chosen_on.startswith("calibration (30 pictures")
    with pytest.raises(DataError, match="no pictures in val: choose --split from calibration"):
        add_trust(plain, tmp_path / "other", folder, "val", 0.9)


def trust_scores(bundle: Bundle) -> list[float]:
    """The novelty scores of the calibration pictures."""
    fitted = trust_of(bundle)
    assert fitted is not None
    return [*map(float, fitted.novelty.calibration)]


def test_the_text_has_every_figure_and_every_map(added: AddedTrust) -> None:
    text = added.text()
    assert all(f"  {name}:" in text for name in added.fit.section.figures)
    assert all(f"  {kind}:" in text for kind in ("temperature", "platt", "beta", "isotonic"))


def test_a_bundle_without_the_part_has_none(plain: Path) -> None:
    assert trust_of(read_bundle(plain)) is None


def test_one_tampered_value_is_refused_by_name(added: AddedTrust, tmp_path: Path) -> None:
    folder = shutil.copytree(added.bundle.path, tmp_path / "bundle")
    content = bytearray((folder / TRUST).read_bytes())
    content[-1] ^= 1
    (folder / TRUST).write_bytes(content)
    with pytest.raises(BundleError, match=TRUST):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("calibration.platt", np.array([-1.0, 0.0])),
        ("conformal.0", np.array([0.5, 0.4])),
        ("conformal.1", np.zeros(0)),
        ("novelty.calibration", np.array([[1.0]])),
        ("novelty.cnn.mean", np.zeros(3, np.float32)),
        ("novelty.swin.basis", np.zeros((3, 2), np.float16)),
        ("novelty.swin.scale", np.array([0.0, -1.0])),
        ("novelty.swin.scale", np.array([0.0])),
        ("novelty.swin.scale", np.array([0, 1])),
        ("unknown", np.zeros(1)),
        ("conformal.2", np.zeros(1)),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(added: AddedTrust, name: str, values: np.ndarray) -> None:
    with pytest.raises(BundleError, match=f"^{TRUST}: is not a readable trust part"):
        trust_of(replace(added.bundle, trust={**added.bundle.trust, "calibration.platt": np.ones(2), name: values}))


def test_every_tensor_is_needed(added: AddedTrust) -> None:
    for name in added.bundle.trust:
        rest = {other: values for other, values in added.bundle.trust.items() if other != name}
        with pytest.raises(BundleError, match=TRUST):
            trust_of(replace(added.bundle, trust=rest))


def test_values_that_are_not_finite_are_refused(added: AddedTrust, tmp_path: Path) -> None:
    folder = shutil.copytree(added.bundle.path, tmp_path / "bundle")
    tensors = dict(added.bundle.trust) | {"novelty.calibration": np.array([np.nan])}
    (folder / TRUST).write_bytes(safetensors.numpy.save(tensors))
    seal(folder, (TRUST,))
    with pytest.raises(BundleError, match=f"{TRUST}: tensor novelty.calibration"):
        read_bundle(folder)


@pytest.mark.parametrize("gone", ["section", "file"])
def test_section_and_file_belong_together(added: AddedTrust, tmp_path: Path, gone: str) -> None:
    folder = shutil.copytree(added.bundle.path, tmp_path / "bundle")
    edit(folder, lambda fields: fields.update(trust=None) if gone == "section" else fields["files"].pop(TRUST))
    with pytest.raises(BundleError, match=f"trust: it belongs to {TRUST}"):
        read_bundle(folder)


def test_without_train_the_novelty_score_of_the_bundle_is_kept(
    added: AddedTrust, plain: Path, data: Path, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    shutil.copytree(data / "val", local)  # a folder of classes without splits
    again = add_trust(added.bundle.path, tmp_path / "again", local, None, 0.8)
    assert np.array_equal(again.bundle.trust["novelty.cnn.basis"], added.bundle.trust["novelty.cnn.basis"])
    assert again.fit.section.chosen_on.startswith("all pictures (30") and again.fit.section.inside == 0.8
    with pytest.raises(TrustProblem, match="no split train"):
        add_trust(plain, tmp_path / "first", local, None, 0.8)


def test_what_cannot_be_fitted_is_refused(plain: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustProblem, match="not fitted to train"):
        add_trust(plain, tmp_path / "out", data, "train", 0.95)
    with pytest.raises(DataError, match="no pictures in test: choose --split from val"):
        add_trust(plain, tmp_path / "out", data, "test", 0.95)
    draw_dataset(tmp_path / "few", 8, seed=0)
    with pytest.raises(TrustProblem, match="class benign has 1 calibration groups, but 5 are needed"):
        add_trust(plain, tmp_path / "out", tmp_path / "few", None, 0.95)
    with pytest.raises(OutputError, match="exists and is not empty"):
        add_trust(plain, plain, data, None, 0.95)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("coverage", 0.99), ("coverage", 0.3), ("largest_coverage", 0.9999), ("largest_coverage", 0.5)),
        *(("novelty_threshold", 1e300), ("novelty_threshold", -5.0), ("inside", 0.5)),
        *(("refers", []), ("refers", ["no_such"]), ("near_gap", -1.0), ("smallest_sharpness", -1.0)),
        ("pictures", {"benign": 1, "malignant": 99}),
    ],
)
def test_a_promise_that_its_numbers_do_not_keep_is_refused(
    added: AddedTrust, tmp_path: Path, name: str, value: object
) -> None:
    folder = Path(shutil.copytree(added.bundle.path, tmp_path / "bundle"))
    edit(folder, lambda fields: fields["trust"].update({name: value}))
    with pytest.raises(BundleError, match="trust"):
        trust_of(read_bundle(folder))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("novelty.swin.basis", lambda basis: 10 * basis),
        ("novelty.swin.basis", lambda basis: 0 * basis),
        ("novelty.swin.scale", lambda scale: np.array([0, 1e-300])),
        ("novelty.calibration", lambda scores: scores + 100),
        ("novelty.calibration", lambda scores: scores[:3]),
        ("conformal.0", lambda scores: scores + 5),
        ("conformal.0", lambda scores: scores - 5),
    ],
)
def test_numbers_that_no_fit_gives_are_refused(
    added: AddedTrust, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    tensors = {**added.bundle.trust, name: change(added.bundle.trust[name])}
    with pytest.raises(BundleError, match=f"^{TRUST}: is not a readable trust part"):
        trust_of(replace(added.bundle, trust=tensors))


def test_a_share_that_so_few_pictures_cannot_promise_is_refused(plain: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustProblem, match=r"cannot be promised with 13 calibration groups: at most 0\.9286"):
        add_trust(plain, tmp_path / "bundle", data, None, 0.99)


def test_groups_of_several_labels_are_fitted_or_refused_in_words(plain: Path, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    with (folder / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    for number, row in enumerate(rows):  # groups of three of one split
        row["group"] = f"{row['split']}{number // 3}"
    with (folder / "labels.csv").open("w", newline="") as table:
        written = csv.DictWriter(table, [*rows[0]])
        written.writeheader()
        written.writerows(rows)
    try:
        add_trust(plain, tmp_path / "bundle", folder, None, 0.9)
    except TrustProblem as error:
        assert "calibration groups" in str(error)
