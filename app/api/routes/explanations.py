"""Routes for explanations of a stored prediction (GET) or of an uploaded picture (POST)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app import __version__, errors
from app.api.dependencies import OwnerDep, RegistryDep, ServiceDep, UploadDep, UserDep, cancel_on_disconnect
from app.api.encoding import encode
from app.api.parameters import with_fields
from app.api.problems import error_responses
from app.api.queries import (
    AttentionQuery,
    ExplainQuery,
    ExplanationQuery,
    GradcamQuery,
    NoveltyQuery,
    StoredAttentionQuery,
    StoredExplainQuery,
    StoredGradcamQuery,
    StoredNoveltyQuery,
    StoredTokensQuery,
    TokensQuery,
)
from app.api.routes.predictions import NOT_MODIFIED, UPLOAD_ERRORS
from app.api.schemas import ExplanationAnswer
from app.api.uploads import ReceivedUpload, openapi_body
from app.predicting.prediction import Prediction
from app.predicting.request import AcceptedRequest
from app.serving.registry import ModelRegistry
from app.serving.service import Service

StoredQuery = StoredExplainQuery | StoredGradcamQuery | StoredAttentionQuery | StoredTokensQuery | StoredNoveltyQuery
router = APIRouter(tags=["explanations"])
_BINARY, _TEXT = {"schema": {"type": "string", "format": "binary"}}, {"type": "string"}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The explanation. The header `FusionLens-Explanation` describes it in JSON.",
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
            "ETag": {"description": "only for stored predictions; POST sends none", "schema": _TEXT},
        },
        "model": ExplanationAnswer,
    },
}
PARAMETER_ERRORS = (errors.BadParameter, errors.NotOffered, errors.Overloaded, errors.DeadlineExceeded)
STORED_ERRORS = (errors.UnknownPrediction, errors.ModelGone, errors.StoreUnavailable, *PARAMETER_ERRORS)
# A graph that is compiled on first use may turn out to be unusable then.
GRAPH_ERRORS = (errors.BundleError, errors.EngineError)


@router.get(
    "/explain",
    summary="Explanation of a stored prediction",
    response_class=Response,
    responses=error_responses(*STORED_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_explanation(
    models: RegistryDep,
    owner: OwnerDep,
    user: UserDep,
    query: Annotated[StoredExplainQuery, Query()],
    request: Request,
) -> Response:
    """Explain a stored prediction: what speaks for a class in the picture.

    The default method is the one that the bundle names as the most faithful: see GET /model. No second pass through
    the backbones is needed, except for fine detail, which takes eight more passes.
    """
    return await _explain_stored(models, owner, user, query, request)


@router.get(
    "/gradcam",
    summary="Grad-CAM of a stored prediction",
    response_class=Response,
    responses=error_responses(*STORED_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_gradcam(
    models: RegistryDep,
    owner: OwnerDep,
    user: UserDep,
    query: Annotated[StoredGradcamQuery, Query()],
    request: Request,
) -> Response:
    """Explain a stored prediction, like `/explain`, but with Grad-CAM as the default method."""
    return await _explain_stored(models, owner, user, query, request)


@router.get(
    "/attention",
    summary="Attention of a stored prediction",
    response_class=Response,
    responses=error_responses(*STORED_ERRORS, *GRAPH_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_attention(
    models: RegistryDep,
    owner: OwnerDep,
    user: UserDep,
    query: Annotated[StoredAttentionQuery, Query()],
    request: Request,
) -> Response:
    """Show where the transformer's tokens look, for a stored prediction."""
    return await _explain_stored(models, owner, user, query, request)


@router.get(
    "/tokens",
    summary="Tokens of a stored prediction",
    response_class=Response,
    responses=error_responses(*STORED_ERRORS, *GRAPH_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_tokens(
    models: RegistryDep,
    owner: OwnerDep,
    user: UserDep,
    query: Annotated[StoredTokensQuery, Query()],
    request: Request,
) -> Response:
    """Show how much the transformer's tokens at one stage matter for a class, for a stored prediction."""
    return await _explain_stored(models, owner, user, query, request)


@router.get(
    "/novelty",
    summary="Foreign parts of a stored prediction",
    response_class=Response,
    responses=error_responses(*STORED_ERRORS) | CONTENT | NOT_MODIFIED,
)
async def stored_novelty(
    models: RegistryDep,
    owner: OwnerDep,
    user: UserDep,
    query: Annotated[StoredNoveltyQuery, Query()],
    request: Request,
) -> Response:
    """Show which parts of a stored prediction's picture are unlike the training pictures, whatever the class."""
    return await _explain_stored(models, owner, user, query, request)


@router.post(
    "/explain",
    summary="Explanation of a picture",
    response_class=Response,
    responses=error_responses(*UPLOAD_ERRORS, *PARAMETER_ERRORS) | CONTENT,
    openapi_extra=openapi_body(ExplainQuery),
)
async def explanation(
    service: ServiceDep,
    user: UserDep,
    query: Annotated[ExplainQuery, Query()],
    upload: UploadDep,
    request: Request,
) -> Response:
    """Explain the uploaded picture: what speaks for a class in it. Nothing is stored.

    The default method is the one that the bundle names as the most faithful: see GET /model.
    """
    return await _explain_upload(service, user, query, upload, request)


@router.post(
    "/gradcam",
    summary="Grad-CAM of a picture",
    response_class=Response,
    responses=error_responses(*UPLOAD_ERRORS, *PARAMETER_ERRORS) | CONTENT,
    openapi_extra=openapi_body(GradcamQuery),
)
async def gradcam(
    service: ServiceDep,
    user: UserDep,
    query: Annotated[GradcamQuery, Query()],
    upload: UploadDep,
    request: Request,
) -> Response:
    """Explain the uploaded picture, like `/explain`, but with Grad-CAM as the default method. Nothing is stored."""
    return await _explain_upload(service, user, query, upload, request)


@router.post(
    "/attention",
    summary="Attention of a picture",
    response_class=Response,
    responses=error_responses(*UPLOAD_ERRORS, *PARAMETER_ERRORS, *GRAPH_ERRORS) | CONTENT,
    openapi_extra=openapi_body(AttentionQuery),
)
async def attention(
    service: ServiceDep,
    user: UserDep,
    query: Annotated[AttentionQuery, Query()],
    upload: UploadDep,
    request: Request,
) -> Response:
    """Show where the transformer's tokens look in the uploaded picture. Nothing is stored."""
    return await _explain_upload(service, user, query, upload, request)


@router.post(
    "/tokens",
    summary="Tokens of a picture",
    response_class=Response,
    responses=error_responses(*UPLOAD_ERRORS, *PARAMETER_ERRORS, *GRAPH_ERRORS) | CONTENT,
    openapi_extra=openapi_body(TokensQuery),
)
async def tokens(
    service: ServiceDep,
    user: UserDep,
    query: Annotated[TokensQuery, Query()],
    upload: UploadDep,
    request: Request,
) -> Response:
    """Show how much the transformer's tokens at one stage matter for a class. Nothing is stored."""
    return await _explain_upload(service, user, query, upload, request)


@router.post(
    "/novelty",
    summary="Foreign parts of a picture",
    response_class=Response,
    responses=error_responses(*UPLOAD_ERRORS, *PARAMETER_ERRORS) | CONTENT,
    openapi_extra=openapi_body(NoveltyQuery),
)
async def novelty(
    service: ServiceDep,
    user: UserDep,
    query: Annotated[NoveltyQuery, Query()],
    upload: UploadDep,
    request: Request,
) -> Response:
    """Show which parts of the uploaded picture are unlike the training pictures. Nothing is stored."""
    return await _explain_upload(service, user, query, upload, request)


async def _explain_stored(
    models: ModelRegistry, owner: str, user: str, query: StoredQuery, request: Request
) -> Response:
    prediction = await models.store.get(query.prediction_id, owner)
    service = models.service_of(prediction.bundle_sha256)
    caching = {"ETag": _etag(query, prediction.bundle_sha256), "Cache-Control": "private, no-cache"}
    if caching["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=caching)
    cached = service.explanation_cache.get(query.prediction_id, caching["ETag"])
    service.metrics.cache_reads.labels("hit" if cached else "miss").inc()
    if cached is not None:
        body, headers = cached
        return Response(body, headers=headers)
    query.style()  # raises BadParameter before anything is computed
    accepted = service.predictor.accept(query.request())
    explained = _explain(service, prediction, accepted, query, service.deadline(), user)
    response = await cancel_on_disconnect(request, explained)
    response.headers.update(caching)
    answer = (bytes(response.body), dict(response.headers))
    service.explanation_cache.put(query.prediction_id, caching["ETag"], answer)
    return response


async def _explain_upload(
    service: Service, user: str, query: ExplanationQuery, upload: ReceivedUpload, request: Request
) -> Response:
    query = with_fields(query, request, upload.fields)
    query.style()  # raises BadParameter before anything is computed
    accepted, deadline = service.predictor.accept(query.request()), service.deadline()

    async def predict_and_explain() -> Response:
        predicted = await service.predict(
            upload.picture, deadline, user, with_gradient=accepted.request.needs_answer_gradient
        )
        notes = predicted.upload.notes
        return await _explain(service, predicted.prediction, accepted, query, deadline, user, notes)

    return await cancel_on_disconnect(request, predict_and_explain())


async def _explain(
    service: Service,
    prediction: Prediction,
    accepted: AcceptedRequest,
    query: ExplanationQuery,
    deadline: float,
    user: str,
    notes: Sequence[str] = (),
) -> Response:
    encoding = partial(encode, service.predictor, prediction, query, notes=notes)
    return await service.explain(prediction, accepted, encoding, deadline, user)


def _etag(query: StoredQuery, bundle_sha256: str) -> str:
    """The ETag of an explanation. A stored prediction never changes, so query and versions identify the answer."""
    identity = f"{query.model_dump_json()} {bundle_sha256} {__version__}"
    return f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'
