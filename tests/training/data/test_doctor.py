"""Each fault planted in clean data is found and named, and clean data has none."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidSettings
from reliability.hostile import saved
from training.data.doctor import examine
from training.data.draw import draw_dataset, draw_lesion
from training.data.samples import DataError, Finding

PER_CLASS = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn lesions in `train/<class>/NN.png` and `val/<class>/NN.png`, and their table."""
    root = tmp_path_factory.mktemp("drawn")
    for number in range(2 * (PER_CLASS + 2)):
        label, position = ("benign", "malignant")[number % 2], number // 2
        split = "train" if position < PER_CLASS else "val"
        path = root / split / label / f"{position:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_lesion(np.random.default_rng([4, number]), label).image).save(path, compress_level=1)
    write_table(root)
    return root


@pytest.fixture
def clean(drawn: Path, tmp_path: Path) -> Path:
    """A copy of that, to spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def write_table(root: Path, **groups: str) -> None:
    """List what lies in the folders, with the groups of pictures named like `val_benign_12`."""
    with (root / "labels.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["path", "label", "group", "split"])
        for path in sorted(root.glob("*/*/*.*")):
            split, label = path.relative_to(root).parts[:2]
            rows.writerow([path.relative_to(root), label, groups.get(f"{split}_{label}_{path.stem}", ""), split])


def only(root: Path) -> Finding:
    (finding,) = examine(root).findings
    return finding


def test_clean_data_has_no_findings_and_its_classes_in_a_table(clean: Path) -> None:
    report = examine(clean)
    assert report.findings == ()
    lines = report.text().splitlines()
    assert [line.split() for line in lines[:3]] == [["train", "val"], ["benign", "12", "2"], ["malignant", "12", "2"]]
    assert lines[-1] == "nothing found"


def test_a_drawn_set_is_clean_though_lesions_are_seen_again(tmp_path: Path) -> None:
    draw_dataset(tmp_path, count=40, seed=2)
    assert examine(tmp_path).findings == ()
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace("drawn-", "").replace(",group,", ",visit,"))
    found = examine(tmp_path).findings
    assert found and {finding.kind for finding in found} == {"near duplicate"}


def test_real_pictures_of_different_lesions_are_no_near_duplicates(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "skin" / "labels.csv").read_text().splitlines()
    (tmp_path / "skin").symlink_to(shared_data / "skin")
    (tmp_path / "labels.csv").write_text(
        "\n".join([lines[0], *(f"skin/{line}".replace("masks/", "skin/masks/") for line in lines[1::7])])
    )
    assert examine(tmp_path).findings == ()


def damaged(root: Path) -> None:
    path = root / "train" / "benign" / "03.png"
    path.write_bytes(path.read_bytes()[:2000])


def foreign(root: Path) -> None:
    (root / "train" / "benign" / "03.png").write_text("<html>")


@pytest.mark.parametrize(
    ("spoil", "reason"), [(damaged, "damaged or cut off"), (foreign, "which is not read: send JPEG")]
)
def test_a_file_that_serving_would_refuse_is_found(clean: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(clean)
    finding = only(clean)
    assert (finding.kind, finding.paths) == ("unreadable", (clean / "train" / "benign" / "03.png",))
    assert reason in finding.sentence


def test_a_picture_that_training_reads_and_the_service_refuses_is_found(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = clean / "train" / "benign" / "03.png"
    with Image.open(large) as image:
        image.resize((500, 500)).save(large)
    monkeypatch.setenv("FUSIONLENS_MAX_FULL_PIXELS", "200000")
    finding = only(clean)
    assert (finding.kind, finding.paths) == ("serving", (large,))
    assert "500 × 500 px" in finding.sentence and "FUSIONLENS_MAX_FULL_PIXELS" in finding.sentence
    monkeypatch.setenv("FUSIONLENS_MAX_FULL_PIXELS", "many")
    with pytest.raises(InvalidSettings, match="FUSIONLENS_MAX_FULL_PIXELS"):
        examine(clean)


def test_a_file_that_serving_would_read_otherwise_than_expected_is_found(clean: Path) -> None:
    path = clean / "train" / "benign" / "03.png"
    frames = [Image.open(path), Image.open(clean / "train" / "benign" / "04.png").rotate(90)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    finding = only(clean)
    assert (finding.kind, finding.paths) == ("note", (path,)) and "several frames" in finding.sentence


@pytest.mark.parametrize(
    ("place", "says", "says_not"),
    [
        ("train/benign", [], ["labels", "split"]),
        ("val/benign", ["in more than one split (train, val)"], ["labels"]),
        ("train/malignant", ["with different labels (benign, malignant)"], ["split"]),
        ("val/malignant", ["with different labels (benign, malignant)", "in more than one split (train, val)"], []),
    ],
)
@pytest.mark.parametrize("kind", ["duplicate", "near duplicate"])
def test_a_copy_is_found_and_what_is_wrong_about_it(
    clean: Path, kind: str, place: str, says: list[str], says_not: list[str]
) -> None:
    original, copy = clean / "train" / "benign" / "03.png", clean / place / "copy.bmp"
    with Image.open(original) as image:
        (image if kind == "duplicate" else image.rotate(90)).save(copy)  # other bytes, and in the first case no others
    write_table(clean)
    finding = only(clean)
    assert (finding.kind, set(finding.paths)) == (kind, {original, copy})
    assert all(text in finding.sentence for text in says) and not any(text in finding.sentence for text in says_not)


@pytest.mark.parametrize("where", ["another label", "another side", "another group"])
def test_a_near_copy_in_a_group_is_found_where_the_group_is_no_excuse(clean: Path, where: str) -> None:
    split = "val" if where == "another side" else "train"
    label = "malignant" if where == "another label" else "benign"
    with Image.open(clean / "train" / "benign" / "03.png") as image:
        image.transpose(Image.Transpose.TRANSPOSE).save(clean / split / label / "copy.png")
    group = "other" if where == "another group" else "one"
    write_table(clean, train_benign_03="one", **{f"{split}_{label}_copy": group})
    kinds = [finding.kind for finding in examine(clean).findings]
    assert kinds == (["group", "near duplicate"] if where == "another side" else ["near duplicate"])


def test_copies_are_told_of_once_for_each_set(clean: Path) -> None:
    with Image.open(clean / "train" / "benign" / "03.png") as image:
        for number in range(1, 4):
            image.rotate(90 * number).save(clean / "train" / "benign" / f"copy{number}.png")
        image.save(clean / "train" / "benign" / "copy4.png")
    write_table(clean)
    exact, near = examine(clean).findings
    assert (exact.kind, len(exact.paths), near.kind, len(near.paths)) == ("duplicate", 2, "near duplicate", 4)


def test_pictures_near_to_one_between_them_are_one_set(clean: Path) -> None:
    """Two pixels apart is near, four is not."""
    with Image.open(clean / "train" / "benign" / "03.png") as image:
        for name, shift in (("copy1", -2), ("copy2", 2)):
            shifted = np.roll(np.asarray(image), shift, axis=1)
            Image.fromarray(shifted).save(clean / "train" / "benign" / f"{name}.png")
    (clean / "train" / "benign" / "03.png").rename(clean / "train" / "benign" / "copy3.png")
    write_table(clean)
    assert len(only(clean).paths) == 3
    (clean / "train" / "benign" / "copy3.png").unlink()
    write_table(clean)
    assert examine(clean).findings == ()


def test_a_group_on_two_sides_is_found(clean: Path) -> None:
    write_table(clean, train_benign_03="patient 7", val_malignant_13="patient 7", train_benign_04="patient 8")
    finding = only(clean)
    assert (finding.kind, finding.sentence) == ("group", "group patient 7 is in more than one split (train, val)")
    assert len(finding.paths) == 2


def test_data_that_cannot_be_split_is_found(clean: Path) -> None:
    for path in (clean / "val" / "benign").iterdir():
        path.unlink()
    write_table(clean)
    finding = only(clean)
    assert finding.kind == "split" and "class benign has no picture in val" in finding.sentence


def test_a_class_with_few_pictures_is_found(clean: Path) -> None:
    for number in range(3):
        (clean / "train" / "malignant" / f"{number:02d}.png").unlink()
    write_table(clean)
    finding = only(clean)
    assert finding.kind == "balance"
    assert finding.sentence == "class malignant has 9 training picture(s), fewer than 10"


def test_a_rare_class_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, count in (("common", 210), ("rare", 10)):
        (tmp_path / label).mkdir()
        for number in range(count):
            noise = rng.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / label / f"{number}.png")
    (finding,) = examine(tmp_path, input_side_px=6).findings
    assert finding.kind == "balance"
    assert finding.sentence == "class common has 210 training pictures and class rare 10, more than 20 to 1"
    for number in range(10):
        (tmp_path / "common" / f"{number}.png").unlink()
    assert examine(tmp_path, input_side_px=6).findings == ()


def test_odd_sizes_are_found(clean: Path) -> None:
    small, wide = clean / "train" / "benign" / "03.png", clean / "train" / "benign" / "04.png"
    for path, size in ((small, (224, 223)), (wide, (224 * 4, 224))):
        with Image.open(path) as image:
            image.resize(size).save(path)
    below, off = examine(clean).findings
    assert (below.kind, below.paths, off.kind, off.paths) == ("size", (small,), "size", (wide,))
    assert "below the model's 224 px" in below.sentence and "from the median by a factor above 3" in off.sentence


@pytest.mark.parametrize(
    ("mode", "suffix", "colour"),
    [
        ("L", "png", "grey"),
        ("1", "png", "grey"),
        ("I;16", "png", "grey"),
        ("CMYK", "jpg", "CMYK"),
        ("RGBA", "png", "colour with transparency"),
    ],
)
def test_a_mixture_of_colour_modes_is_found(clean: Path, mode: str, suffix: str, colour: str) -> None:
    path = clean / "train" / "benign" / "03.png"
    with Image.open(path) as image:
        converted = (
            image.convert(mode) if mode != "I;16" else Image.fromarray(np.uint16(257) * np.asarray(image.convert("L")))
        )
    path.unlink()
    converted.save(path := path.with_suffix(f".{suffix}"))
    write_table(clean)
    [finding] = [finding for finding in examine(clean).findings if finding.kind != "note"]
    assert (finding.kind, finding.paths) == ("colour", (path,))
    assert finding.sentence == f"1 picture(s) are {colour} (1 benign), but most are colour"


def test_a_palette_is_colour_too(clean: Path) -> None:
    path = clean / "train" / "benign" / "03.png"
    with Image.open(path) as image:
        image.convert("P").save(path)
    assert examine(clean).findings == ()


def test_the_text_names_pictures_and_says_what_it_leaves_out(clean: Path) -> None:
    for path in sorted((clean / "train").glob("*/0*.png"))[:14]:
        path.with_name(f"{path.stem}-copy.png").write_bytes(path.read_bytes())
    for path in sorted((clean / "train" / "malignant").glob("1*.png"))[:2] + sorted((clean / "val").glob("*/*.png")):
        path.write_text("")
    write_table(clean)
    text = examine(clean / "labels.csv").text()
    assert "unreadable: 6 picture(s): The upload is empty" in text
    assert "    train/malignant/10.png\n" in text and "\n    and 2 more\n" in text
    assert text.count("\nduplicate: 2 pictures have the same pixels") == 5
    assert "\nduplicate: 9 more like these" in text
    assert text.endswith("\n15 finding(s)")


def test_data_that_cannot_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        examine(tmp_path)


def test_pictures_of_few_bits_or_without_contrast_are_found_together(clean: Path) -> None:
    for number in ("03", "05"):
        path = clean / "train" / "benign" / f"{number}.png"
        with Image.open(path) as image:
            Image.fromarray(np.uint16(16) * np.asarray(image.convert("L"))).save(path)
        black = clean / "train" / "malignant" / f"{number}.png"
        Image.new("RGB", (224, 224), (0, 0, int(number))).save(black)
    notes = [finding for finding in examine(clean).findings if finding.kind == "note"]
    assert [(len(finding.paths), "12 bits" in finding.sentence) for finding in notes] == [
        (2, True),
        (4, False),
    ]  # the first two are black as well
    assert "contrast" in notes[1].sentence


@pytest.mark.parametrize("format_name", ["AVIF", "HEIF"])
def test_pictures_that_the_service_reads_on_request_are_found(
    clean: Path, format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clean / "train" / "benign" / "03.png"
    with Image.open(path) as image:
        data = saved(image.copy(), format_name, quality=95)
    path.write_bytes(data)
    finding = only(clean)
    assert (finding.kind, finding.paths) == ("serving", (path,)) and "FUSIONLENS_MORE_FORMATS" in finding.sentence
    monkeypatch.setenv("FUSIONLENS_MORE_FORMATS", format_name)
    assert examine(clean).findings == ()


def masked(root: Path, left_out: Sequence[str] = ()) -> dict[str, Path]:
    """Give every picture a mask of its middle, but for those left out. Returns the masks by the pictures' names."""
    rows, masks = ["path,label,split,mask"], {}
    (root / "masks").mkdir(exist_ok=True)
    for path in sorted(root.glob("[tv]*/*/*.png")):
        split, label = path.relative_to(root).parts[:2]
        name = f"{split}_{label}_{path.stem}"
        mask = root / "masks" / f"{name}.png"
        inside = Image.new("1", (224, 224))
        inside.paste(1, (60, 60, 160, 160))
        inside.save(mask)
        if name not in left_out:
            masks[name] = mask
        rows.append(f"{path.relative_to(root)},{label},{split},{mask.relative_to(root) if name in masks else ''}")
    (root / "labels.csv").write_text("\n".join(rows))
    return masks


MASKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "unreadable": (lambda mask: mask.write_text("<html>"), "1 mask(s) cannot be read: {mask}: "),
    "cut off": (lambda mask: mask.write_bytes(mask.read_bytes()[:60]), "1 mask(s) cannot be read: {mask}: "),
    "of another size": (
        lambda mask: Image.new("1", (224, 100), 1).save(mask),
        "are of another size than their pictures",
    ),
    "empty": (lambda mask: Image.new("L", (224, 224), 1).save(mask), "1 mask(s) are empty: {mask}"),
    "full": (lambda mask: Image.new("L", (224, 224), 255).save(mask), "are white everywhere"),
}


@pytest.mark.parametrize("fault", MASKS)
def test_a_mask_that_localisation_could_not_use_is_found(clean: Path, fault: str) -> None:
    mask = masked(clean)["train_benign_03"]
    report = examine(clean)
    assert report.findings == () and "masks: 28 of 28 pictures have one" in report.facts
    spoil, sentence = MASKS[fault]
    spoil(mask)
    finding = only(clean)
    assert (finding.kind, finding.paths) == ("mask", (mask,))
    assert sentence.format(mask=mask) in finding.sentence


def test_pictures_without_masks_and_masks_without_pictures_are_found(clean: Path) -> None:
    masked(clean, left_out=["train_benign_03", "val_benign_12"])
    found = {finding.sentence: [path.name for path in finding.paths] for finding in examine(clean).findings}
    assert found == {
        "2 file(s) among the masks belong to no picture": ["train_benign_03.png", "val_benign_12.png"],
        "2 picture(s) have no mask, but others of their class have": ["03.png", "12.png"],
    }
    for path in clean.glob("masks/*_benign_*"):
        path.unlink()
    masked_labels = [f"{split}_benign_{n:02d}" for split in ("train", "val") for n in range(PER_CLASS + 2)]
    masked(clean, left_out=masked_labels)
    for path in clean.glob("masks/*_benign_*"):
        path.unlink()
    assert examine(clean).findings == ()  # nothing of a benign lesion is labelled, perhaps


def test_a_mask_of_two_pictures_and_a_picture_as_a_mask_are_found(clean: Path) -> None:
    masks = masked(clean)
    table = clean / "labels.csv"
    table.write_text(
        table.read_text()
        .replace("masks/train_benign_03.png", "masks/train_benign_04.png")
        .replace("masks/train_benign_05.png", "train/benign/05.png")
    )
    for name in ("train_benign_03", "train_benign_05"):
        masks[name].unlink()
    sentences = [finding.sentence for finding in examine(clean).findings]
    assert "train_benign_04.png is the mask of 2 pictures" in sentences
    assert "1 mask(s) are listed as pictures of the data too" in sentences


def test_masks_that_are_missing_are_told_as_such(clean: Path) -> None:
    masked(clean)["train_benign_03"].unlink()
    with pytest.raises(DataError, match=r"1 of 56 files .* the first is .*train_benign_03\.png.*; 1 of them are masks"):
        examine(clean)
