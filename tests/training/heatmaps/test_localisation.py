"""`fusionlens-train localisation`: how much of each heatmap lies in the masks, on drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from tests.support.bundles import write_tiny_bundle
from training.cli import main
from training.data.draw import draw_dataset
from training.evaluation.evaluate import samples_of_split
from training.heatmaps.faithfulness import energy_inside, enlarge
from training.heatmaps.measure import open_picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("localisation") / "tiny")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("drawn")
    draw_dataset(data, 16, seed=1)
    return data


@pytest.mark.slow
def test_figures_are_means_over_the_pictures_with_masks(
    bundle: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["localisation", str(bundle), str(drawn), "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "localisation.json").read_text())
    rows = found["mean, low, high"]
    assert "| fusion hirescam, fine |" in capsys.readouterr().out
    assert all(0 <= value <= 1 for row in rows.values() for figure in ("pointing", "energy") for value in row[figure])

    read = read_bundle(bundle)
    predictor = Predictor(read, load_engine(read, "torch"), Limits(), 64)
    energies: dict[str, list[float]] = {"grid": [], "fine": []}
    for sample in samples_of_split(drawn, None):
        opened = open_picture(predictor, sample)
        if opened.mask is None:
            continue
        prediction, _ = predictor.predict(opened.upload)
        for detail, values in energies.items():
            asked = HeatmapRequest(method="hirescam", detail="fine" if detail == "fine" else "grid")
            heatmap = enlarge(predictor.explain_one(prediction, asked).heatmap, opened.mask.shape)
            values.append(energy_inside(heatmap, opened.mask))
    assert found["pictures"] == len(energies["grid"]) > 2
    grid, fine = (sum(values) / len(values) for values in energies.values())
    assert rows["fusion hirescam"]["energy"][0] == pytest.approx(grid, abs=1e-6)
    assert rows["fusion hirescam, fine"]["energy"][0] == pytest.approx(fine, abs=1e-6)
    assert rows["fusion hirescam, fine"]["gain"][0] == pytest.approx(fine - grid, abs=1e-6)
    assert rows["fusion hirescam"]["gain"] is None


def test_data_without_masks_is_refused(bundle: Path, drawn: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    draw_dataset(bare, 8, seed=2)
    table = bare / "labels.csv"
    header, *lines = table.read_text().splitlines()
    columns = header.split(",")
    kept = [number for number, name in enumerate(columns) if name != "mask"]
    table.write_text("\n".join(",".join(line.split(",")[n] for n in kept) for line in (header, *lines)) + "\n")
    assert main(["localisation", str(bundle), str(bare), "--out", str(tmp_path / "out")]) == 1
