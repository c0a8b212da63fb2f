"""Routes for predictions: make one, show its picture, delete it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from app import errors
from app.api.dependencies import OwnerDep, RegistryDep, ServiceDep, UploadDep, UserDep, cancel_on_disconnect
from app.api.parameters import refuse_query, with_fields
from app.api.problems import error_responses
from app.api.queries import PredictQuery
from app.api.schemas import (
    ClassProbability,
    Links,
    ModelVersion,
    PictureInfo,
    PredictionAnswer,
    TrustAnswer,
    TrustReason,
)
from app.api.uploads import openapi_body
from app.predicting.assessed import WITHOUT_TRUST
from app.predicting.predictor import Predictor
from app.serving.stores.protocol import Receipt
from app.trust.assessment import Assessment

router = APIRouter(tags=["predictions"])
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The answer still has the ETag of If-None-Match."},
}
UPLOAD_ERRORS = (
    errors.EmptyUpload,
    errors.MalformedUpload,
    errors.UploadTooSlow,
    errors.UploadTooLarge,
    errors.PictureTooLarge,
    errors.UnsupportedMediaType,
    errors.MissingField,
    errors.UnreadablePicture,
    errors.BadParameter,
    errors.Overloaded,
    errors.DeadlineExceeded,
)


PredictionId = Annotated[
    str,
    Path(
        description="`prediction_id` from the answer of POST /predict",
        examples=["tpMCQLqvrsyPlbwVraAaYQ"],
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"},  # for the document alone: any other is unknown, with 404
    ),
]


@router.post(
    "/predict",
    summary="Classify a picture",
    responses=error_responses(*UPLOAD_ERRORS),
    openapi_extra=openapi_body(PredictQuery),
)
async def predict(
    service: ServiceDep,
    owner: OwnerDep,
    user: UserDep,
    upload: UploadDep,
    query: Annotated[PredictQuery, Query()],
    request: Request,
    response: Response,
) -> PredictionAnswer:
    """Classify one picture. The prediction can be explained by its `prediction_id` until it expires.

    Send the picture as multipart/form-data in a field `file`, or as the body with an `image/*` content type. The
    picture itself is not stored: only the model's small input, its feature maps and a preview are, until the prediction
    expires. If the store cannot be reached, the picture is still classified; `stored` is false then, and there is no
    id.

    `trust` says whether the answer may be relied on. If its `decision` is `refer`, a person should judge the picture,
    and `reasons` say why.

    `curl -F file=@picture.jpg http://127.0.0.1:8000/predict`
    """
    coverage = with_fields(query, request, upload.fields).coverage
    service.predictor.check_coverage(coverage)
    predicted = await cancel_on_disconnect(request, service.predict(upload.picture, service.deadline(), user))
    assessment = await service.assess(predicted.prediction, coverage)
    if assessment is not None:
        request.state.told |= {"decision": assessment.decision, "reasons": [one.code for one in assessment.reasons]}
    response.headers["Cache-Control"] = "no-store"
    decoded, notes = predicted.upload, list(predicted.upload.notes)
    try:
        receipt = await service.store.put(predicted.prediction, owner)
    except (errors.StoreUnavailable, errors.EntryTooLarge) as error:
        reason = error if isinstance(error, errors.EntryTooLarge) else "the store cannot be reached"
        notes.append(f"This prediction was not stored ({reason}): explain the picture by POST.")
        receipt = None
    return PredictionAnswer(
        prediction_id=receipt and receipt.prediction_id,
        expires_at=receipt and receipt.expires_at,
        stored=receipt is not None,
        label=predicted.answer.label,
        probabilities=_ranked(predicted.answer.probabilities),
        trust=assessment and _trust(assessment),
        trust_note=WITHOUT_TRUST if assessment is None else None,
        model=model_version(service.predictor),
        picture=PictureInfo(
            width_px=decoded.width_px,
            height_px=decoded.height_px,
            format=decoded.format,
            notes=notes,
            seen=decoded.frame,
        ),
        timings_ms={stage: round(spent, 2) for stage, spent in predicted.timings_ms.items()},
        links=_links(service.predictor, receipt, request.scope.get("root_path", "")),
    )


def _ranked(probabilities: dict[str, float]) -> list[ClassProbability]:
    return [ClassProbability(label=label, probability=probability) for label, probability in probabilities.items()]


def _trust(assessment: Assessment) -> TrustAnswer:
    return TrustAnswer(
        decision=assessment.decision,
        reasons=[TrustReason(code=reason.code, detail=reason.detail) for reason in assessment.reasons],
        prediction_set=list(assessment.prediction_set),
        coverage=assessment.coverage,
        probabilities=_ranked(assessment.probabilities),
        in_distribution=assessment.in_distribution,
        novelty_percentile=assessment.novelty_percentile,
    )


def _links(predictor: Predictor, receipt: Receipt | None, prefix: str) -> Links:
    """The routes for a prediction, below the prefix under which the service is reached."""
    if receipt is None:
        return Links(picture=None, explain=None, gradcam=None, attention=None, tokens=None, novelty=None, similar=None)
    query = f"?prediction_id={receipt.prediction_id}"
    return Links(
        picture=f"{prefix}/predictions/{receipt.prediction_id}/picture",
        explain=f"{prefix}/explain{query}",
        gradcam=f"{prefix}/gradcam{query}",
        attention=f"{prefix}/attention{query}" if predictor.capabilities.has_attention else None,
        tokens=f"{prefix}/tokens{query}" if predictor.capabilities.token_stages else None,
        novelty=f"{prefix}/novelty{query}" if predictor.capabilities.has_foreign_parts else None,
        similar=f"{prefix}/similar{query}" if predictor.capabilities.has_cases else None,
    )


@router.get(
    "/predictions/{prediction_id}/picture",
    summary="Picture of a prediction",
    response_class=Response,
    responses=error_responses(errors.UnknownPrediction, errors.ModelGone, errors.StoreUnavailable)
    | {200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}}
    | NOT_MODIFIED,
)
async def picture(models: RegistryDep, owner: OwnerDep, prediction_id: PredictionId, request: Request) -> Response:
    """The upright preview that overlays are drawn on, without a heatmap, as JPEG."""
    prediction = await models.store.get(prediction_id, owner)
    refuse_query(request)
    caching = {"ETag": '"preview"', "Cache-Control": "private, no-cache"}  # the preview never changes
    if caching["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=caching)
    return Response(prediction.upload.preview_jpeg, headers=caching, media_type="image/jpeg")


@router.delete(
    "/predictions/{prediction_id}",
    summary="Delete a prediction",
    status_code=204,
    response_description="The prediction is deleted.",
    responses=error_responses(errors.UnknownPrediction, errors.StoreUnavailable),
)
async def forget(models: RegistryDep, owner: OwnerDep, prediction_id: PredictionId, request: Request) -> None:
    """Delete a stored prediction with its feature maps and its preview."""
    if request.query_params:
        await models.store.get(prediction_id, owner)  # what is not there is told first
        refuse_query(request)
    await models.forget(prediction_id, owner)


def model_version(predictor: Predictor) -> ModelVersion:
    """The name, version and digest of a predictor's model."""
    manifest = predictor.bundle.manifest
    return ModelVersion(name=manifest.name, version=manifest.version, sha256=predictor.bundle.sha256)
