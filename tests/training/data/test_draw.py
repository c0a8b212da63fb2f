"""The drawn set is the same each time, fits its table and masks, and is a task: neither trivial nor hopeless."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.shapes import Bool
from tests.support.full_disk import files_of_at_most
from training.data.draw import DrawnPicture, draw_dataset, draw_lesion
from training.data.samples import read_samples
from training.metrics.classification import auroc


@pytest.fixture(scope="module")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    draw_dataset(out, count=26, seed=3)
    return out


def table(out: Path) -> list[dict[str, str]]:
    with (out / "labels.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_pictures(tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        draw_dataset(tmp_path / name, count=5, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert not {data for name, data in first.items() if name.endswith(".png")} & set(other.values())


def test_the_table_and_the_files_agree(drawn_set: Path) -> None:
    rows = table(drawn_set)
    assert list(rows[0]) == ["path", "label", "group", "split", "mask"]
    assert sorted(contents(drawn_set)) == sorted(["labels.csv", *(row[k] for row in rows for k in ("path", "mask"))])
    for row in rows:
        assert row["path"].split("/")[:2] == [row["split"], row["label"]]
        with Image.open(drawn_set / row["path"]) as image, Image.open(drawn_set / row["mask"]) as mask:
            assert (image.size, image.mode, mask.size, mask.mode) == ((224, 224), "RGB", (224, 224), "1")


def test_labels_are_balanced_and_a_quarter_of_each_is_for_validation(drawn_set: Path) -> None:
    assert Counter((row["label"], row["split"]) for row in table(drawn_set)) == {
        ("benign", "train"): 10,
        ("benign", "val"): 3,
        ("malignant", "train"): 10,
        ("malignant", "val"): 3,
    }


def test_a_lesion_is_never_on_both_sides_and_some_are_seen_again(drawn_set: Path) -> None:
    rows = table(drawn_set)
    kinds = {(row["group"], row["label"], row["split"]) for row in rows}
    pictures = Counter(row["group"] for row in rows)
    assert len(kinds) == len(pictures) and set(pictures.values()) == {1, 2, 3}
    assert len({(drawn_set / row["path"]).read_bytes() for row in rows}) == len(rows)


def test_the_training_reads_it(drawn_set: Path) -> None:
    assert [len(read_samples(drawn_set, split)) for split in ("train", "val")] == [20, 6]


def test_a_set_is_never_drawn_over_another(drawn_set: Path) -> None:
    before = contents(drawn_set)
    with pytest.raises(FileExistsError):
        draw_dataset(drawn_set, count=26, seed=4)
    assert contents(drawn_set) == before


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 4"):
        draw_dataset(tmp_path, count=3, seed=0)
    with pytest.raises(ValueError, match="choose one of benign, malignant"):
        draw_lesion(np.random.default_rng(0), "unknown")


def test_in_a_set_too_the_mask_lies_on_the_lesion(drawn_set: Path) -> None:
    """Also where the lesion was seen again, turned."""
    for row in table(drawn_set):
        image, mask = np.asarray(Image.open(drawn_set / row["path"])), np.asarray(Image.open(drawn_set / row["mask"]))
        assert contrast(DrawnPicture(image, mask)) > 0.35


def contrast(drawn: DrawnPicture) -> float:
    """How well the mask tells lesion from skin by brightness (Youden's index of the best threshold)."""
    grey = drawn.image.mean(axis=-1)
    levels = np.arange(256)
    inside = np.searchsorted(np.sort(grey[drawn.mask]), levels) / drawn.mask.sum()
    outside = np.searchsorted(np.sort(grey[~drawn.mask]), levels) / (~drawn.mask).sum()
    return float((inside - outside).max())


@cache
def many() -> tuple[list[DrawnPicture], Bool[np.ndarray, " n"]]:
    labels = ["benign", "malignant"] * 100
    lesions = [draw_lesion(np.random.default_rng([8, number]), label, 96) for number, label in enumerate(labels)]
    return lesions, np.array(labels) == "malignant"


def test_masks_fit_their_lesions() -> None:
    lesions, _ = many()
    assert np.median([contrast(drawn) for drawn in lesions]) > 0.85
    moved = [DrawnPicture(drawn.image, np.roll(drawn.mask, 12, axis=1)) for drawn in lesions]
    assert all(contrast(drawn) > contrast(away) for drawn, away in zip(lesions, moved, strict=True))
    assert all(0.02 < drawn.mask.mean() < 0.6 for drawn in lesions)


@pytest.mark.parametrize("channel", [0, 1, 2], ids=["red", "green", "blue"])
@pytest.mark.parametrize("where", ["everywhere", "lesion"])
def test_mean_colour_alone_does_not_tell_the_label(where: str, channel: int) -> None:
    lesions, malignant = many()
    means = [d.image[..., channel][d.mask if where == "lesion" else ...].mean() for d in lesions]
    assert 0.3 < auroc(np.array(means), malignant) < 0.7


def test_size_alone_does_not_tell_the_label() -> None:
    lesions, malignant = many()
    assert 0.3 < auroc(np.array([drawn.mask.mean() for drawn in lesions]), malignant) < 0.7


def colour_spread(drawn: DrawnPicture) -> float:
    return float(drawn.image[drawn.mask].std(axis=0).sum())


def border_irregularity(drawn: DrawnPicture) -> float:
    """Perimeter over the square root of the area."""
    mask = drawn.mask.astype(int)
    perimeter = np.abs(np.diff(mask, axis=0)).sum() + np.abs(np.diff(mask, axis=1)).sum()
    return float(perimeter / np.sqrt(mask.sum()))


@pytest.mark.parametrize("feature", [colour_spread, border_irregularity])
def test_what_a_dermatologist_looks_at_does(feature: Callable[[DrawnPicture], float]) -> None:
    lesions, malignant = many()
    assert auroc(np.array([feature(drawn) for drawn in lesions]), malignant) > 0.75


def test_a_full_disk_is_named_and_leaves_no_table(tmp_path: Path) -> None:
    with files_of_at_most(2000), pytest.raises(OSError, match=r"train/benign/0000\.png"):
        draw_dataset(tmp_path / "drawn", 4, 0)
    assert not (tmp_path / "drawn" / "labels.csv").exists()
    draw_dataset(tmp_path / "drawn", 4, 0)
    assert len(read_samples(tmp_path / "drawn")) == 4
