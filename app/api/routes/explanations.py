"""Explanations: Grad-CAM, attention and the Swin's tokens, of a stored prediction or of a picture sent along."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app import __version__, errors
from app.api.dependencies import TheModels, TheOwner, TheService, UploadedPicture, unless_gone
from app.api.problems import documented
from app.api.queries import (
    AttentionQuery,
    GradcamQuery,
    StoredAttentionQuery,
    StoredGradcamQuery,
    StoredTokensQuery,
    TokensQuery,
)
from app.api.routes.predictions import NOT_MODIFIED, UPLOAD_ERRORS
from app.api.schemas import ExplanationAnswer, Legend, Provenance, Share
from app.api.uploads import OPENAPI_BODY
from app.drawing.overlay import Style, legend_of
from app.drawing.png import encode_png
from app.explain.shapley import BranchValues
from app.predicting.explanation import Explanation
from app.predicting.overlays import draw_over, draw_panels
from app.predicting.prediction import Prediction
from app.predicting.predictor import Predictor
from app.serving.registry import LoadedModels
from app.serving.service import Service

AnyQuery = GradcamQuery | AttentionQuery | TokensQuery
StoredQuery = StoredGradcamQuery | StoredAttentionQuery | StoredTokensQuery
router = APIRouter(tags=["explanations"])
_OF_WHAT = {"method", "branch", "fuse", "target", "against", "detail", "units"}
_SUMMARY = {*_OF_WHAT, "no_positive_evidence", "notes", "provenance"}
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
                "description": "method, branch, target, units, provenance and more; JSON",
                "schema": _TEXT,
            },
            "ETag": {"description": "of a stored prediction's explanation; never sent by POST", "schema": _TEXT},
        },
        "model": ExplanationAnswer,
    },
}
PARAMETER_ERRORS = (errors.BadParameter, errors.NotOffered, errors.Overloaded, errors.DeadlineExceeded)
STORED_ERRORS = (errors.UnknownPrediction, errors.ModelGone, errors.StoreUnavailable, *PARAMETER_ERRORS)
# Where a graph is read when it is first asked for.
LATE_ERRORS = (errors.BundleError, errors.EngineError)


@router.get(
    "/gradcam",
    summary="Grad-CAM of a stored prediction",
    response_class=Response,
    responses=documented(*STORED_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_gradcam(
    models: TheModels, owner: TheOwner, query: Annotated[StoredGradcamQuery, Query()], request: Request
) -> Response:
    """What speaks for a class in a picture that was predicted before: no second pass through the backbones.

    Fine detail is the exception: it takes eight more.
    """
    return await _stored(models, owner, query, request)


@router.get(
    "/attention",
    summary="Attention of a stored prediction",
    response_class=Response,
    responses=documented(*STORED_ERRORS, *LATE_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_attention(
    models: TheModels, owner: TheOwner, query: Annotated[StoredAttentionQuery, Query()], request: Request
) -> Response:
    """Where the Swin's tokens look, in a picture that was predicted before."""
    return await _stored(models, owner, query, request)


@router.get(
    "/tokens",
    summary="Swin tokens of a stored prediction",
    response_class=Response,
    responses=documented(*STORED_ERRORS, *LATE_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_tokens(
    models: TheModels, owner: TheOwner, query: Annotated[StoredTokensQuery, Query()], request: Request
) -> Response:
    """How much the Swin's tokens matter at one of its stages, in a picture that was predicted before."""
    return await _stored(models, owner, query, request)


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
    responses=documented(*UPLOAD_ERRORS, *PARAMETER_ERRORS, *LATE_ERRORS) | CONTENT,
    openapi_extra=OPENAPI_BODY,
)
async def attention(
    service: TheService, query: Annotated[AttentionQuery, Query()], picture: UploadedPicture, request: Request
) -> Response:
    """Where the Swin's tokens look, in the picture sent along. Nothing is kept."""
    return await unless_gone(request, _unstored(service, query, picture))


@router.post(
    "/tokens",
    summary="Swin tokens of a picture",
    response_class=Response,
    responses=documented(*UPLOAD_ERRORS, *PARAMETER_ERRORS, *LATE_ERRORS) | CONTENT,
    openapi_extra=OPENAPI_BODY,
)
async def tokens(
    service: TheService, query: Annotated[TokensQuery, Query()], picture: UploadedPicture, request: Request
) -> Response:
    """How much the Swin's tokens matter at one of its stages, in the picture sent along. Nothing is kept."""
    return await unless_gone(request, _unstored(service, query, picture))


async def _unstored(service: Service, query: AnyQuery, picture: bytes) -> Response:
    query.check(service.predictor)
    until = service.deadline()
    predicted = await service.predict(picture, until, explained=isinstance(query, GradcamQuery))
    return await _made(service, predicted.prediction, query, until)


async def _made(service: Service, prediction: Prediction, query: AnyQuery, until: float) -> Response:
    moved: list[Prediction] = []
    if isinstance(query, GradcamQuery) and query.detail == "fine":
        moved = await service.moved(prediction, until)
    through_swin = isinstance(query, TokensQuery) or (isinstance(query, AttentionQuery) and query.layer == "swin")
    work = partial(_respond, service, prediction, query, moved)
    return await service.explain(work, until, through_swin)


async def _stored(models: LoadedModels, owner: str, query: StoredQuery, request: Request) -> Response:
    prediction = await models.current.store.get(query.prediction_id, owner)
    service = models.of(prediction.bundle_sha256)
    # A stored prediction never changes, so what is asked of it names the bytes of the answer.
    asked = f"{request.url.path} {query.model_dump_json()} {prediction.bundle_sha256} {__version__}"
    caching = {"ETag": f'"{hashlib.sha256(asked.encode()).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
    if caching["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=caching)
    known = service.answers.get(query.prediction_id, caching["ETag"])
    service.metrics.cache_reads.labels("hit" if known else "miss").inc()
    if known is not None:
        body, headers = known
        return Response(body, headers=headers)
    query.check(service.predictor)
    response = await unless_gone(request, _made(service, prediction, query, service.deadline()))
    response.headers.update(caching)
    answer = (bytes(response.body), dict(response.headers))
    service.answers.put(query.prediction_id, caching["ETag"], answer, len(response.body))
    return response


def _respond(service: Service, prediction: Prediction, query: AnyQuery, moved: list[Prediction]) -> Response:
    with service.metrics.stage("explain"):
        explanations = query.explain(service.predictor, prediction, moved)
    with service.metrics.stage("encode"):
        return _encoded(service.predictor, prediction, query, explanations)


def _encoded(
    predictor: Predictor, prediction: Prediction, query: AnyQuery, explanations: list[Explanation]
) -> Response:
    style, explanation = query.style(), explanations[-1]
    answer = _answer(predictor, explanation, style)
    if len(explanations) > 1:
        answer = answer.model_copy(update={"branch": ",".join(str(one.branch) for one in explanations)})
    headers = {"FusionLens-Explanation": json.dumps(answer.model_dump(include=_SUMMARY))}
    headers["Cache-Control"] = "no-store"
    if query.format == "json":
        if explanation.shares and explanation.target is not None:
            # What takes more passes through the head is computed for those only who can see it.
            values = predictor.branch_values(prediction, explanation.target, explanation.against)
            answer = _with_branch_values(answer, values)
        return Response(answer.model_dump_json(), headers=headers, media_type="application/json")
    if query.format == "npy":
        array = io.BytesIO()
        np.save(array, query.array(explanation), allow_pickle=False)
        return Response(array.getvalue(), headers=headers, media_type="application/x-npy")
    overlay = (
        draw_over(prediction, explanation, style)
        if len(explanations) == 1
        else draw_panels(prediction, explanations, style)
    )
    return Response(encode_png(overlay.picture), headers=headers, media_type="image/png")


def _answer(predictor: Predictor, explanation: Explanation, style: Style) -> ExplanationAnswer:
    manifest, heatmap = predictor.bundle.manifest, explanation.heatmap
    legend = legend_of(heatmap, style)
    completeness = explanation.completeness
    return ExplanationAnswer(
        heatmap=heatmap.tolist(),
        shape=(heatmap.shape[0], heatmap.shape[1]),
        units=explanation.units,
        method=explanation.method,
        branch=explanation.branch,
        fuse=explanation.fuse,
        detail=explanation.detail,
        target=explanation.target,
        against=explanation.against,
        branches={
            branch: Share(**asdict(share), integrated_gradients_sum=share.signed_sum if completeness else None)
            for branch, share in explanation.shares.items()
        },
        completeness_error=completeness.error if completeness else None,
        no_positive_evidence=legend.no_positive_evidence,
        legend=Legend(**asdict(legend)),
        notes=list(explanation.notes),
        warnings=list(explanation.warnings),
        provenance=Provenance(
            bundle_sha256=predictor.bundle.sha256,
            model=f"{manifest.name} {manifest.version}",
            engine=predictor.engine_version,
            fusionlens=__version__,
        ),
    )


def _with_branch_values(answer: ExplanationAnswer, values: BranchValues) -> ExplanationAnswer:
    branches = {
        branch: share.model_copy(update={"shapley_value": values.of_branch[branch]})
        for branch, share in answer.branches.items()
    }
    return answer.model_copy(
        update={"branches": branches, "score": values.score, "reference_score": values.reference_score}
    )
