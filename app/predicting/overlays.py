"""Draws explanations over the preview of the picture that they explain."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from app.drawing.overlay import NO_EVIDENCE, Drawing, Style, draw, legend_of
from app.drawing.panels import Panel, side_by_side
from app.explain.merge import per_finest_cell
from app.pictures.rectangle import Rectangle
from app.predicting.explanation import FOREIGN_PARTS, Explanation
from app.predicting.prediction import Prediction


def draw_over(prediction: Prediction, explanation: Explanation, style: Style) -> Drawing:
    """The explanation drawn over the picture."""
    picture, seen = _preview(prediction)
    nothing = "no foreign part" if explanation.method == FOREIGN_PARTS else NO_EVIDENCE
    return draw(picture, explanation.heatmap, seen, style, nothing=nothing)


def draw_panels(prediction: Prediction, explanations: Sequence[Explanation], style: Style) -> Drawing:
    """Explanations side by side, each titled with its view.

    Maps in logits share the scale of the largest one, in logits per cell of the finest of their grids, so that the same
    evidence has the same colour on a coarse grid as on a fine one.
    """
    picture, seen = _preview(prediction)
    heatmaps = [explanation.heatmap for explanation in explanations]
    on_one_scale = all(explanation.units == "logit" for explanation in explanations)
    if on_one_scale:
        heatmaps = per_finest_cell(heatmaps)
    largest = max((legend_of(heatmap, style) for heatmap in heatmaps), key=lambda legend: legend.high)
    scale = largest if on_one_scale else None
    panels = [
        Panel(str(explanation.branch), draw(picture, heatmap, seen, style, scale), explanation.units)
        for explanation, heatmap in zip(explanations, heatmaps, strict=True)
    ]
    return Drawing(side_by_side(panels), largest)


def longest_side_px(prediction: Prediction) -> int:
    """The longest side of the preview, which drawings do not exceed."""
    return max(_preview(prediction)[0].size)


def _preview(prediction: Prediction) -> tuple[Image.Image, Rectangle]:
    """The preview, and the region of it that the model saw."""
    upload = prediction.upload
    picture = Image.open(io.BytesIO(upload.preview_jpeg), formats=["JPEG"])
    return picture, upload.frame.scaled(picture.width / upload.width_px, picture.height / upload.height_px)
