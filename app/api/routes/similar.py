"""Routes for similar cases: the training pictures that a stored prediction's or an uploaded picture resembles."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app import errors
from app.api.dependencies import OwnerDep, RegistryDep, ServiceDep, UploadDep, UserDep, cancel_on_disconnect
from app.api.parameters import with_fields
from app.api.problems import error_responses
from app.api.queries import SimilarQuery, StoredSimilarQuery
from app.api.routes.predictions import UPLOAD_ERRORS, model_version
from app.api.schemas import LabelShare, SimilarAnswer, SimilarCase
from app.api.uploads import openapi_body
from app.cases.index import Case
from app.predicting.predictor import Predictor

router = APIRouter(tags=["explanations"])
_NOTE = (
    "Similar to the model, by its own feature maps: such cases show what it compares a picture with, and do not prove "
    "its answer."
)


@router.get(
    "/similar",
    summary="Cases similar to a stored prediction",
    responses=error_responses(
        errors.UnknownPrediction, errors.ModelGone, errors.StoreUnavailable, errors.BadParameter, errors.NotOffered
    ),
)
async def stored_similar(
    models: RegistryDep, owner: OwnerDep, query: Annotated[StoredSimilarQuery, Query()], response: Response
) -> SimilarAnswer:
    """The training pictures that the picture of a stored prediction resembles most, at most one of each group."""
    prediction = await models.store.get(query.prediction_id, owner)
    service = models.service_of(prediction.bundle_sha256)
    response.headers["Cache-Control"] = "no-store"
    return _answer(service.predictor, await service.similar(prediction, query.k))


@router.post(
    "/similar",
    summary="Cases similar to a picture",
    responses=error_responses(*UPLOAD_ERRORS, errors.NotOffered),
    openapi_extra=openapi_body(SimilarQuery),
)
async def similar(
    service: ServiceDep,
    user: UserDep,
    query: Annotated[SimilarQuery, Query()],
    upload: UploadDep,
    request: Request,
    response: Response,
) -> SimilarAnswer:
    """The training pictures that the uploaded picture resembles most. Nothing is stored."""
    query = with_fields(query, request, upload.fields)
    service.predictor.check_cases()
    predicted = await cancel_on_disconnect(request, service.predict(upload.picture, service.deadline(), user))
    response.headers["Cache-Control"] = "no-store"
    return _answer(service.predictor, await service.similar(predicted.prediction, query.k), predicted.upload.notes)


def _answer(predictor: Predictor, cases: list[Case], notes: tuple[str, ...] = ()) -> SimilarAnswer:
    counts = Counter(case.label for case in cases)
    return SimilarAnswer(
        cases=[_case(case) for case in cases],
        shares=[LabelShare(label=label, share=count / len(cases)) for label, count in counts.most_common()],
        notes=[_NOTE, *notes],
        model=model_version(predictor),
    )


def _case(case: Case) -> SimilarCase:
    thumbnail = None if case.thumbnail is None else f"data:image/jpeg;base64,{b64encode(case.thumbnail).decode()}"
    return SimilarCase(
        id=case.name,
        label=case.label,
        similarity=case.similarity,
        group=case.group,
        origin="site" if case.is_local else "training",
        thumbnail=thumbnail,
    )
