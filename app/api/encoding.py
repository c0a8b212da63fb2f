"""Encodes explanations as responses: an overlay, JSON, or the raw array."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
from fastapi import Response

from app import __version__
from app.api.queries import ExplanationQuery
from app.api.schemas import ExplanationAnswer, Provenance
from app.drawing.overlay import Style, legend_of
from app.drawing.png import encode_png
from app.predicting.explanation import Explanation
from app.predicting.overlays import draw_over, draw_panels
from app.predicting.prediction import Prediction
from app.predicting.predictor import Predictor

# The fields of the answer that the header FusionLens-Explanation has too.
_HEADER_FIELDS = {
    *("method", "branch", "fuse", "target", "against", "detail", "units"),
    *("no_positive_evidence", "notes", "provenance"),
}


def encode(
    predictor: Predictor, prediction: Prediction, query: ExplanationQuery, explanations: Sequence[Explanation]
) -> Response:
    """The response to a query. Several explanations are drawn side by side, which only PNG can show."""
    style, explanation = query.style(), explanations[-1]
    answer = _answer(predictor, explanation, style)
    if len(explanations) > 1:
        answer = answer.model_copy(update={"branch": ",".join(str(view.branch) for view in explanations)})
    headers = {
        "FusionLens-Explanation": json.dumps(answer.model_dump(include=_HEADER_FIELDS)),
        "Cache-Control": "no-store",
    }
    if query.format == "json":
        return Response(answer.model_dump_json(), headers=headers, media_type="application/json")
    if query.format == "npy":
        array = io.BytesIO()
        np.save(array, query.array(explanation), allow_pickle=False)
        return Response(array.getvalue(), headers=headers, media_type="application/x-npy")
    if len(explanations) == 1:
        drawing = draw_over(prediction, explanation, style)
    else:
        drawing = draw_panels(prediction, explanations, style)
    return Response(encode_png(drawing.picture), headers=headers, media_type="image/png")


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
