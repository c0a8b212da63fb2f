"""Draws explanations over the preview of the picture that they explain."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from app.drawing.overlay import Drawing, Style, draw, legend_of
from app.drawing.panels import Panel, side_by_side
from app.pictures.rectangle import Rectangle
from app.predicting.explanation import Explanation
from app.predicting.prediction import Prediction


def draw_over(prediction: Prediction, explanation: Explanation, style: Style) -> Drawing:
    """The explanation drawn over the picture."""
    picture, seen = _preview(prediction)
    return draw(picture, explanation.heatmap, seen, style)


def draw_panels(prediction: Prediction, explanations: Sequence[Explanation], style: Style) -> Drawing:
    """Explanations side by side, each titled with its view. Maps in logits share the scale of the largest one."""
    picture, seen = _preview(prediction)
    largest = max(
        (legend_of(explanation.heatmap, style) for explanation in explanations), key=lambda legend: legend.high
    )
    scale = largest if all(explanation.units == "logit" for explanation in explanations) else None
    panels = [
        Panel(str(explanation.branch), draw(picture, explanation.heatmap, seen, style, scale), explanation.units)
        for explanation in explanations
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
