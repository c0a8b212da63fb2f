"""A run says how it read its data before it trains, and refuses files that it could not read later."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support.bundles import tiny_architecture
from training.data.samples import DataError
from training.loop.fit import fit
from training.output import OutputError
from training.recipe.config import ModelConfig, Recipe, RecipeError
from training.recipe.load import load_recipe
from training.runs.run import new_run

RECIPE = Recipe(name="tiny", model=ModelConfig(**tiny_architecture().model_dump(), image_size=(64, 64)), batch_size=64)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures in splits by other names, a scan that cannot be read, and a class that is written in two ways."""
    for split in ("Training", "VALID"):
        for label in ("cat", "Cat"):
            for number in range(2):
                path = tmp_path / "data" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), number).save(path)
    (tmp_path / "data" / "Training" / "cat" / "scan.dcm").write_bytes(bytes(128) + b"DICM")
    return tmp_path / "data"


def test_fit_reports_how_the_data_was_read_before_anything_else(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RecipeError, match="less than one batch"):
        fit(RECIPE, data, tmp_path / "run", said.append)
    assert said == [f"data: {remark}" for remark in new_run(RECIPE, data, tmp_path / "run").remarks]
    assert said[0] == "data: splits: Training was read as train, VALID was read as val"
    assert "1 of 9 files were left out" in said[1] and "1 .dcm (a DICOM file)" in said[1]
    assert "Cat (4) and cat (4) differ only" in said[2]


def test_a_listed_file_that_cannot_be_read_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.glob("*/*/*"))]
    (data / "labels.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match=r"1 of 9 pictures cannot be read: 1 \.dcm \(a DICOM file\)"):
        new_run(RECIPE, data, tmp_path / "run")


def test_a_run_is_not_written_into_its_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(OutputError, match="lies in the data"):
        new_run(load_recipe("smoke"), tmp_path / "data", tmp_path / "data" / "runs" / "one")


def test_a_test_split_of_the_datas_own_beside_what_is_left_out_is_told(tmp_path: Path) -> None:
    rows = ["path,label,split,source"]
    for number in range(40):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},{('train', 'val', 'test', 'train')[number // 10]},{number // 4}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    recipe = load_recipe("smoke", ["leave_out={source: ['0']}"])
    (remark,) = (each for each in new_run(recipe, tmp_path, tmp_path.parent / "run").remarks if "leave_out" in each)
    assert remark.startswith("test has 14 pictures, of which the data had 10 there already")
