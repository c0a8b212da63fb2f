"""Encodes explanations as responses: an overlay, JSON, or the raw array."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Response

from app import __version__
from app.api.queries import ExplanationQuery
from app.api.schemas import ClassExplanation, ExplanationAnswer, Provenance
from app.drawing.overlay import Legend, Style, legend_of
from app.drawing.png import encode_png
from app.predicting.explanation import Explanation
from app.predicting.overlays import draw_over, draw_panels, longest_side_px
from app.predicting.prediction import Prediction
from app.predicting.predictor import Predictor

# The fields of the answer that the header FusionLens-Explanation has too.
_HEADER_FIELDS = {
    *("method", "branch", "fuse", "target", "against", "detail", "units"),
    *("no_positive_evidence", "notes", "warnings", "provenance"),
}


def encode(
    predictor: Predictor,
    prediction: Prediction,
    query: ExplanationQuery,
    explanations: Sequence[Explanation],
    notes: Sequence[str] = (),
) -> Response:
    """The response to a query. Several explanations are drawn side by side, which only PNG can show.

    `notes` are sentences for its sender besides those about the explanation itself.
    """
    style, explanation = query.style(), explanations[-1]
    answer = _answer(predictor, explanation, style)
    if query.every_class:
        answer.every_class = {str(one.target): _of_class(one) for one in explanations[:-1]}
    elif len(explanations) > 1:
        answer = answer.model_copy(update=_of_all(explanations, style))
    answer.notes += [*notes, *_changed(prediction, query, answer.legend)]
    headers = {
        "FusionLens-Explanation": json.dumps(answer.model_dump(include=_HEADER_FIELDS)),
        "Cache-Control": "no-store",
    }
    if query.format == "json":
        return Response(answer.model_dump_json(), headers=headers, media_type="application/json")
    if query.format == "npy":
        array = io.BytesIO()
        np.save(array, query.array(explanations), allow_pickle=False)
        return Response(array.getvalue(), headers=headers, media_type="application/x-npy")
    if len(explanations) == 1:
        drawing = draw_over(prediction, explanation, style)
    else:
        drawing = draw_panels(prediction, explanations, style)
    return Response(encode_png(drawing.picture), headers=headers, media_type="image/png")


def _of_class(explanation: Explanation) -> ClassExplanation:
    completeness = explanation.completeness
    return ClassExplanation(
        heatmap=explanation.heatmap.tolist(),
        branches=dict(explanation.shares),
        score=explanation.score,
        reference_score=explanation.baseline_score,
        completeness_error=completeness.error if completeness else None,
        warnings=list(explanation.warnings),
    )


def _of_all(explanations: Sequence[Explanation], style: Style) -> dict[str, Any]:
    """The fields of the answer that are about all panels, not about the last one alone."""
    bare = [str(one.branch) for one in explanations if legend_of(one.heatmap, style).no_positive_evidence]
    notes = [*dict.fromkeys(note for one in explanations for note in one.notes)]
    if bare and len(bare) < len(explanations):
        notes.append(f"There is no positive evidence in {' and '.join(bare)}, so nothing is coloured there.")
    return {
        "branch": ",".join(str(one.branch) for one in explanations),
        "no_positive_evidence": len(bare) == len(explanations),
        "notes": notes,
        "warnings": [f"{one.branch}: {warning}" for one in explanations for warning in one.warnings],
    }


def _changed(prediction: Prediction, query: ExplanationQuery, legend: Legend) -> list[str]:
    """Sentences about parameters that were given and did not have the effect that their sender may expect."""
    sentences = []
    if unused := query.unused():
        sentences.append(f"What does not change format={query.format}, and was not used: {', '.join(unused)}.")
    elif query.size is not None and query.size > (largest_px := longest_side_px(prediction)):
        sentences.append(
            f"The longest side is {largest_px} px, not the {query.size} px of size: overlays are drawn on the preview, "
            "which is not enlarged."
        )
    if legend.clip is not None and legend.low == 0 and not legend.no_positive_evidence:
        sentences.append("The values at clip_low and clip_high are almost the same, so the scale begins at 0.")
    return sentences


def _answer(predictor: Predictor, explanation: Explanation, style: Style) -> ExplanationAnswer:
    manifest, heatmap = predictor.bundle.manifest, explanation.heatmap
    legend, completeness = legend_of(heatmap, style), explanation.completeness
    return ExplanationAnswer(
        heatmap=heatmap.tolist(),
        shape=(heatmap.shape[0], heatmap.shape[1]),
        units=explanation.units,
        method=explanation.method,
        branch=explanation.branch,
        fuse=explanation.merge,
        detail=explanation.detail,
        target=explanation.target,
        against=explanation.against,
        branches=dict(explanation.shares),
        score=explanation.score,
        reference_score=explanation.baseline_score,
        completeness_error=completeness.error if completeness else None,
        no_positive_evidence=legend.no_positive_evidence,
        legend=legend,
        notes=list(explanation.notes),
        warnings=list(explanation.warnings),
        provenance=Provenance(
            bundle_sha256=predictor.bundle.sha256,
            model=f"{manifest.name} {manifest.version}",
            engine=predictor.engine_version,
            fusionlens=__version__,
        ),
    )
