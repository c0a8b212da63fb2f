"""What `fusionlens predict` says of an answer's trust, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.__main__ import main
from tests.support.trusted import scenes, write_trusted


@pytest.fixture(scope="module")
def trusted(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trusted(tiny_bundle, tmp_path_factory.mktemp("trusted") / "bundle")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """A picture like those of the calibration, and one like none of them."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name, picture in (("scene.png", scenes(1, 5)[0]), ("noise.png", noise)):
        Image.fromarray(picture).save(tmp_path / name)
    return [str(tmp_path / "scene.png"), str(tmp_path / "noise.png")]


def test_words_and_json_say_the_same(trusted: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *pictures, "--bundle", str(trusted)]) == 0
    words = capsys.readouterr().out
    assert main(["predict", *pictures, "--bundle", str(trusted), "--json", "--coverage", "0.9"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "noise.png: refer to a person: " in words and "unlike what the model was trained on" in words
    assert not records[1]["trust"]["in_distribution"] and records[1]["trust_note"] is None
    for record in records:
        says = "refer to a person" if record["trust"]["decision"] == "refer" else "answer"
        assert f"{record['picture']}: {says}: " in words
        assert all(reason["detail"] in words for reason in record["trust"]["reasons"])


def test_a_bundle_without_the_part_says_null_and_why(
    tiny_bundle: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", pictures[0], "--bundle", str(tiny_bundle), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["trust"] is None and "fusionlens-train trust" in record["trust_note"]


def test_a_coverage_that_cannot_be_is_refused(
    trusted: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", pictures[0], "--bundle", str(trusted), "--coverage", "0.97"]) == 1
    assert "cannot be promised" in capsys.readouterr().err
    for coverage in ("2", "nan", "much"):
        with pytest.raises(SystemExit):
            main(["predict", pictures[0], "--coverage", coverage])
        assert "no number from 0.5 to 0.99" in capsys.readouterr().err
