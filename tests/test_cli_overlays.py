"""`fusionlens predict` with overlays: heatmaps by any method, branch and fusion, attention and Swin tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.__main__ import main
from app.explain.methods import DEFAULT
from app.predicting.assessed import WITHOUT_TRUST
from tests.support.asking import png_bytes
from tests.support.full_disk import files_of_at_most


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle without graphs, which torch runs: it starts sooner than graphs are compiled."""
    from tests.support.bundles import write_tiny_bundle  # behind the import hook

    return write_tiny_bundle(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small picture."""
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes())
    return path


def overlay(picture: Path, bundle: Path, *options: str) -> bytes:
    """The file that the command writes with these options."""
    out = picture.with_name("overlay.png")
    assert main(["predict", str(picture), "--bundle", str(bundle), "--explain", str(out), *options]) == 0
    return out.read_bytes()


@pytest.mark.slow
def test_each_option_changes_the_overlay_and_defaults_are_what_the_help_says(picture: Path, bundle: Path) -> None:
    target = ("--target", "malignant")
    by_default = overlay(picture, bundle, *target)
    assert by_default == overlay(picture, bundle, *target, "--method", DEFAULT, "--branch", "fusion")
    others = [
        overlay(picture, bundle, *target, *options)
        for options in (
            ("--method", "xgradcam"),
            ("--branch", "swin"),
            ("--fuse", "max"),
            ("--against", "benign", "--branch", "swin"),
            ("--detail", "fine"),
        )
    ]
    assert len({by_default, *others}) == 1 + len(others)


def test_gradcam_is_the_same_with_its_own_method_and_goes_to_its_own_file(picture: Path, bundle: Path) -> None:
    gradcam = picture.with_name("gradcam.png")
    explained = overlay(picture, bundle, "--gradcam", str(gradcam))
    assert gradcam.read_bytes() == overlay(picture, bundle, "--method", "gradcam") != explained
    same_file = ["--explain", str(gradcam), "--gradcam", str(gradcam)]
    assert main(["predict", str(picture), "--bundle", str(bundle), *same_file]) == 1


def test_how_the_overlay_is_to_be_read_is_said_beside_the_answer(
    picture: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay(picture, bundle, "--method", "hirescam")
    assert capsys.readouterr().err.splitlines() == [WITHOUT_TRUST]
    overlay(picture, bundle, "--method", "eigencam")
    said = capsys.readouterr()
    assert said.out.startswith(f"{picture}: ") and len(said.out.splitlines()) == 1
    assert "Eigen-CAM is class-agnostic" in said.err


@pytest.mark.parametrize(
    "option", ["--branch=cnn", "--method=hirescam", "--against=benign", "--fuse=max", "--detail=fine"]
)
def test_options_of_the_overlay_are_refused_without_one(
    option: str, picture: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(picture), "--bundle", str(bundle), option]) == 1
    assert capsys.readouterr().err == (
        f"fusionlens: {option.partition('=')[0]} says what the overlay shows: give --explain OUT.png too.\n"
    )


def test_attention_and_tokens_are_drawn_too_each_in_its_variants(
    picture: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    for out, option, *values in (("attention", "layer", "cross", "swin"), ("tokens", "token-stage", "4", "8", "16")):
        for value in values:
            file = picture.with_name(f"{out}{value}.png")
            options = ["--bundle", str(bundle), f"--{out}", str(file), f"--{option}", value]
            assert main(["predict", str(picture), *options]) == 0
            drawn.append(file.read_bytes())
    assert len({*drawn}) == 5
    malignant = picture.with_name("malignant.png")
    options = ["--bundle", str(bundle), "--tokens", str(malignant), "--token-stage", "16"]
    for target in ("benign", "malignant"):
        assert main(["predict", str(picture), *options, "--target", target]) == 0
        drawn.append(malignant.read_bytes())
    assert len({*drawn}) == 6  # one of the classes is the answer
    assert "class-agnostic" in capsys.readouterr().err
    assert main(["predict", str(picture), "--bundle", str(bundle), "--token-stage", "4"]) == 1
    assert "give --tokens OUT.png too" in capsys.readouterr().err
    refused = ["--tokens", str(picture.with_name("no.png")), "--token-stage", "5"]
    assert main(["predict", str(picture), "--bundle", str(bundle), *refused]) == 1
    assert "choose one of 16, 8, 4" in capsys.readouterr().err


def test_what_cannot_be_asked_is_refused_before_anything_is_answered(
    picture: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--gradcam", str(picture.with_name("overlay.png")), "--method", "layercam", "--fuse", "sum"]
    assert main(["predict", str(picture), "--bundle", str(bundle), *options]) == 1
    said = capsys.readouterr()
    assert "choose fuse mean, max, product" in said.err and said.out == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--explain", "../pictures/p.png"], "would overwrite the picture"),
        (["--explain", "o.png", "--gradcam", "./../pictures/../pictures/o.png"], "the same output file"),
        (["--explain", "o.jpg"], "writes a PNG, not .jpg"),
        (["--explain", "o.png", "--target", "*"], "An overlay shows one class"),
    ],
)
def test_no_overlay_takes_the_place_of_something_else(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "p.png").write_bytes(png_bytes())
    monkeypatch.chdir(folder)
    assert main(["predict", "p.png", *options]) == 1
    assert sentence in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["p.png"] and (folder / "p.png").read_bytes() == png_bytes()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_no_link_leads_an_overlay_to_the_picture_or_to_another_overlay(
    link: Callable[[Path, Path], None], picture: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, linked = picture.read_bytes(), picture.with_name("linked.png")
    link(picture, linked)
    assert main(["predict", str(picture), "--bundle", str(bundle), "--explain", str(linked)]) == 1
    assert f"would overwrite the picture {linked}" in capsys.readouterr().err
    assert picture.read_bytes() == before
    one, other = picture.with_name("one.png"), picture.with_name("other.png")
    one.touch()
    link(one, other)
    two = ["--explain", str(one), "--attention", str(other)]
    assert main(["predict", str(picture), "--bundle", str(bundle), *two]) == 1
    assert "the same output file" in capsys.readouterr().err


def test_an_overlay_that_cannot_be_written_is_named_and_not_left_in_part(
    picture: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = picture.with_name("overlay.png")
    with files_of_at_most(20):
        assert main(["predict", str(picture), "--bundle", str(bundle), "--explain", str(out)]) == 1
    assert capsys.readouterr().err.endswith(f"fusionlens: {out}: File too large\n")
    assert not out.exists()
