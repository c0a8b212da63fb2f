"""The route for the card of the model."""

from __future__ import annotations

from fastapi import APIRouter

from app import __version__
from app.api.dependencies import ServiceDep, SettingsDep
from app.api.schemas import ModelCard
from app.drawing.overlay import COLORMAPS
from app.explain.methods import METHODS

router = APIRouter(tags=["model"])


@router.get("/model", summary="The model's card")
async def model(service: ServiceDep, settings: SettingsDep) -> ModelCard:
    """The public part of the manifest (classes, metrics, terms of use), the allowed parameters, and the limits."""
    predictor = service.predictor
    public = predictor.bundle.manifest.model_dump(
        mode="json",
        include=ModelCard.model_fields.keys()
        - {"sha256", "token_stages", "novelty", "engine", "fusionlens", "limits", "docs"},
    )
    return ModelCard(
        **public,
        sha256=predictor.bundle.sha256,
        methods=sorted(METHODS, key=lambda name: name != predictor.capabilities.default_method),
        default_method=predictor.capabilities.default_method,
        class_agnostic_methods=[name for name, method in METHODS.items() if method.class_agnostic],
        branches=predictor.capabilities.views,
        token_stages=list(predictor.capabilities.token_stages),
        novelty=predictor.capabilities.has_foreign_parts,
        layers=predictor.capabilities.layers,
        colormaps=list(COLORMAPS),
        limits={
            "max_upload_bytes": settings.max_body_bytes,
            "max_pixels": settings.max_pixels,
            "max_full_pixels": settings.max_full_pixels,
            "max_side_px": settings.max_side_px,
            "store_ttl_s": settings.store_ttl_s,
            "preview_side_px": settings.preview_side_px,
        },
        engine=predictor.engine_version,
        fusionlens=__version__,
        docs=settings.docs,
    )
