"""Explanations: Grad-CAM and attention, of a stored prediction or of a picture sent along."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import __version__, errors
from app.api.dependencies import TheService, UploadedPicture, unless_gone
from app.api.predictions import UPLOAD_ERRORS
from app.api.problems import documented
from app.api.schemas import ExplanationAnswer, Legend, Provenance, Share
from app.api.uploads import OPENAPI_BODY
from app.explain.cam import METHODS
from app.explain.overlay import COLORMAPS, Style, legend_of
from app.explain.png import encode_png
from app.inference.predictor import Explanation, Prediction, Predictor, View
from app.inference.service import Service

router = APIRouter(tags=["explanations"])
Format = Literal["png", "json", "npy"]
PREDICTION_ID = Field(description="from the answer of POST /predict", examples=["tpMCQLqvrsyPlbwVraAaYQ"])
_STYLE = Style()
_BINARY, _TEXT = {"schema": {"type": "string", "format": "binary"}}, {"type": "string"}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The explanation. The header `FusionLens-Explanation` says in JSON what it is and what made it.",
        "content": {
            "image/png": _BINARY,
            "application/json": {"schema": {"$ref": "#/components/schemas/ExplanationAnswer"}},
            "application/x-npy": _BINARY,
        },
        "headers": {
            "FusionLens-Explanation": {
                "description": "method, branch, target, units, provenance; JSON",
                "schema": _TEXT,
            },
            "ETag": {"description": "of a stored prediction's explanation; never sent by POST", "schema": _TEXT},
        },
        "model": ExplanationAnswer,
    },
}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Nothing changed since the ETag sent along."},
}
PARAMETER_ERRORS = (errors.BadParameter, errors.NotOffered, errors.Overloaded, errors.DeadlineExceeded)
STORED_ERRORS = (errors.UnknownPrediction, errors.ModelGone, *PARAMETER_ERRORS)


class DrawingQuery(BaseModel):
    """How an explanation is wanted."""

    model_config = ConfigDict(extra="forbid")

    format: Format = Field("png", description="overlay on the picture, numbers with their legend, or the raw array")
    alpha: float | None = Field(
        None, ge=0, le=1, description="one opacity everywhere, instead of the two below", examples=[0.5]
    )
    alpha_min: float = Field(_STYLE.alpha_min, ge=0, le=1, description="opacity at the weakest evidence drawn")
    alpha_max: float = Field(_STYLE.alpha_max, ge=0, le=1, description="opacity at the strongest evidence")
    clip_low: float = Field(0, ge=0, le=100, description="percentile of the positive evidence that is drawn weakest")
    clip_high: float = Field(100, ge=0, le=100, description="percentile of it from which on it is drawn strongest")
    colormap: str = Field(_STYLE.colormap, description="name of a colour map", json_schema_extra={"enum": [*COLORMAPS]})

    def style(self) -> Style:
        """Raises BadParameter."""
        if self.alpha is not None and self.model_fields_set & {"alpha_min", "alpha_max"}:
            raise errors.BadParameter("Choose either alpha, or alpha_min and alpha_max.")
        low, high = (self.alpha_min, self.alpha_max) if self.alpha is None else (self.alpha, self.alpha)
        clip = (self.clip_low, self.clip_high)
        return Style(self.colormap, low, high, None if clip == (0, 100) else clip)


class GradcamQuery(DrawingQuery):
    """Parameters of `/gradcam`."""

    branch: View = Field("fusion", description="both branches added, or one of them")
    target: str | None = Field(
        None, description="the class to explain; by default the one that was answered", examples=["malignant"]
    )
    method: str = Field("gradcam", description="how evidence is measured", json_schema_extra={"enum": [*METHODS]})

    def check(self, predictor: Predictor) -> None:
        """Raises BadParameter and NotOffered, so that a mistake costs no pass through the model."""
        self.style()
        predictor.check_gradcam(self.branch, self.target, self.method)

    def explain(self, predictor: Predictor, prediction: Prediction) -> Explanation:
        """The explanation asked for."""
        return predictor.gradcam(prediction, self.branch, self.target, self.method)


class AttentionQuery(DrawingQuery):
    """Parameters of `/attention`."""

    query: int | None = Field(
        None, ge=0, description="one Swin token, counted row by row; by default their mean", examples=[24]
    )
    head: int | None = Field(None, ge=0, description="one attention head; by default their mean", examples=[0])

    def check(self, predictor: Predictor) -> None:
        """Raises BadParameter and NotOffered, so that a mistake costs no pass through the model."""
        self.style()
        predictor.check_attention()

    def explain(self, predictor: Predictor, prediction: Prediction) -> Explanation:
        """The explanation asked for."""
        return predictor.attention(prediction, self.query, self.head)


class StoredGradcamQuery(GradcamQuery):
    """Parameters of `GET /gradcam`."""

    prediction_id: str = PREDICTION_ID


class StoredAttentionQuery(AttentionQuery):
    """Parameters of `GET /attention`."""

    prediction_id: str = PREDICTION_ID


@router.get(
    "/gradcam",
    summary="Grad-CAM of a stored prediction",
    response_class=Response,
    responses=documented(*STORED_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_gradcam(
    service: TheService, query: Annotated[StoredGradcamQuery, Query()], request: Request
) -> Response:
    """What speaks for a class in a picture that was predicted before: no second pass through the backbones."""
    return await _stored(service, query, request)


@router.get(
    "/attention",
    summary="Attention of a stored prediction",
    response_class=Response,
    responses=documented(*STORED_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_attention(
    service: TheService, query: Annotated[StoredAttentionQuery, Query()], request: Request
) -> Response:
    """Where the Swin's tokens look in the CNN's map, in a picture that was predicted before. Class-agnostic."""
    return await _stored(service, query, request)


@router.post(
    "/gradcam",
    summary="Grad-CAM of a picture",
    response_class=Response,
    responses=documented(*UPLOAD_ERRORS, *PARAMETER_ERRORS) | CONTENT,
    openapi_extra=OPENAPI_BODY,
)
async def gradcam(
    service: TheService, query: Annotated[GradcamQuery, Query()], picture: UploadedPicture, request: Request
) -> Response:
    """What speaks for a class in the picture sent along. Nothing is kept."""
    return await unless_gone(request, _unstored(service, query, picture))


@router.post(
    "/attention",
    summary="Attention of a picture",
    response_class=Response,
    responses=documented(*UPLOAD_ERRORS, *PARAMETER_ERRORS) | CONTENT,
    openapi_extra=OPENAPI_BODY,
)
async def attention(
    service: TheService, query: Annotated[AttentionQuery, Query()], picture: UploadedPicture, request: Request
) -> Response:
    """Where the Swin's tokens look in the CNN's map, in the picture sent along. Nothing is kept."""
    return await unless_gone(request, _unstored(service, query, picture))


async def _unstored(service: Service, query: GradcamQuery | AttentionQuery, picture: bytes) -> Response:
    query.check(service.predictor)
    until = service.deadline()
    prediction = (await service.predict(picture, until)).prediction
    return await service.explain(partial(_respond, service.predictor, prediction, query), until)


async def _stored(service: Service, query: StoredGradcamQuery | StoredAttentionQuery, request: Request) -> Response:
    prediction = await service.store.get(query.prediction_id)
    # A stored prediction never changes, so what is asked of it names the bytes of the answer.
    asked = f"{request.url.path} {query.model_dump_json()} {prediction.bundle_sha256} {__version__}"
    caching = {"ETag": f'"{hashlib.sha256(asked.encode()).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
    if caching["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=caching)
    work = service.explain(partial(_respond, service.predictor, prediction, query), service.deadline())
    response = await unless_gone(request, work)
    response.headers.update(caching)
    return response


def _respond(predictor: Predictor, prediction: Prediction, query: GradcamQuery | AttentionQuery) -> Response:
    style = query.style()
    explanation = query.explain(predictor, prediction)
    summary = _answer(predictor, explanation, style)
    about = summary.model_dump(include={"method", "branch", "target", "units", "no_positive_evidence", "provenance"})
    headers = {"FusionLens-Explanation": json.dumps(about), "Cache-Control": "no-store"}
    if query.format == "json":
        return Response(summary.model_dump_json(), headers=headers, media_type="application/json")
    if query.format == "npy":
        array = io.BytesIO()
        np.save(array, explanation.heatmap, allow_pickle=False)
        return Response(array.getvalue(), headers=headers, media_type="application/x-npy")
    overlay = predictor.draw(prediction, explanation, style)
    return Response(encode_png(overlay.picture), headers=headers, media_type="image/png")


def _answer(predictor: Predictor, explanation: Explanation, style: Style) -> ExplanationAnswer:
    manifest, heatmap = predictor.bundle.manifest, explanation.heatmap
    legend = legend_of(heatmap, style)
    return ExplanationAnswer(
        heatmap=heatmap.tolist(),
        shape=(heatmap.shape[0], heatmap.shape[1]),
        units=explanation.units,
        method=explanation.method,
        branch=explanation.branch,
        target=explanation.target,
        branches={branch: Share(**asdict(share)) for branch, share in explanation.shares.items()},
        no_positive_evidence=legend.no_positive_evidence,
        legend=Legend(**asdict(legend)),
        notes=list(explanation.notes),
        provenance=Provenance(
            bundle_sha256=predictor.bundle.sha256,
            model=f"{manifest.name} {manifest.version}",
            engine=predictor.engine_version,
            fusionlens=__version__,
        ),
    )
