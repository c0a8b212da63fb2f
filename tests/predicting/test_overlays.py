"""Explanations side by side: the same evidence has the same colour, whatever the grid it is given on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.drawing.overlay import Style
from app.explain.merge import resize_keeping_sum
from app.predicting.explanation import FOREIGN_PARTS, Explanation
from app.predicting.overlays import draw_over, draw_panels
from app.predicting.prediction import Prediction
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from tests.support.evaluated import predictor_of
from tests.support.pictures import encoded, places

STYLE = Style("magma")


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return predictor_of(tiny_bundle)


@pytest.fixture(scope="module")
def prediction(predictor: Predictor) -> Prediction:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return predictor.predict(predictor.open(encoded(Image.fromarray(noise), "PNG")))[0]


@pytest.fixture(scope="module")
def coarse(predictor: Predictor, prediction: Prediction) -> Explanation:
    """A quarter of a logit in each of 7 × 7 cells."""
    explanation = predictor.explain_one(prediction, HeatmapRequest(("cnn",), "hirescam"))
    return replace(explanation, heatmap=np.full((7, 7), 0.25, np.float32))


def test_the_same_evidence_on_another_grid_has_the_same_colour(prediction: Prediction, coarse: Explanation) -> None:
    fine = replace(coarse, heatmap=resize_keeping_sum(coarse.heatmap, (14, 14)))
    both = draw_panels(prediction, [coarse, fine], STYLE)
    assert len(places(both.picture, draw_over(prediction, fine, STYLE).picture)) == 2
    assert both.legend.high == pytest.approx(0.25 / 4)


def test_a_map_with_less_in_the_same_area_has_less_colour(prediction: Prediction, coarse: Explanation) -> None:
    fine = replace(coarse, heatmap=np.full((14, 14), 0.25 / 8, np.float32))
    both = draw_panels(prediction, [coarse, fine], STYLE)
    assert len(places(both.picture, draw_over(prediction, coarse, STYLE).picture)) == 1
    assert both.legend.high == pytest.approx(0.25 / 4)


def test_a_picture_without_foreign_parts_says_so_and_speaks_of_no_evidence(
    prediction: Prediction, coarse: Explanation
) -> None:
    bare = replace(coarse, heatmap=np.full((7, 7), -1, np.float32))
    drawn = [draw_over(prediction, one, STYLE).picture for one in (bare, replace(bare, method=FOREIGN_PARTS))]
    differs = (drawn[0] != drawn[1]).any(axis=(1, 2))
    assert differs.any() and not differs[: len(differs) // 2].any()  # the words at the bottom alone


def test_maps_without_a_unit_keep_their_own_scales(prediction: Prediction, coarse: Explanation) -> None:
    coarse = replace(coarse, units="unitless")
    fine = replace(coarse, heatmap=np.full((14, 14), 0.25, np.float32))
    both = draw_panels(prediction, [coarse, fine], STYLE)
    assert len(places(both.picture, draw_over(prediction, coarse, STYLE).picture)) == 2
    assert both.legend.high == pytest.approx(0.25)
