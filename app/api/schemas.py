"""The bodies that the service answers with."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.drawing.overlay import Legend
from app.explain.merge import Share
from app.models.feature_maps import Branch
from app.pictures.rectangle import Rectangle
from app.predicting.request import Detail

PREDICTION_EXAMPLE: dict[str, Any] = {
    "prediction_id": "rwMr5mbexnMfdB9dnKSgxw",
    "expires_at": "2026-01-01T12:15:00Z",
    "stored": True,
    "label": "malignant",
    "probabilities": [{"label": "malignant", "probability": 0.83}, {"label": "benign", "probability": 0.17}],
    "model": {"name": "skin-demo", "version": "1", "sha256": "8ccb48ee87bd9a2ed5364ebe8f261afe" * 2},
    "picture": {
        "width_px": 600,
        "height_px": 450,
        "format": "JPEG",
        "notes": [],
        "seen": {"left_px": 75.0, "top_px": 0.0, "width_px": 450.0, "height_px": 450.0},
    },
    "timings_ms": {"decode": 3.1, "queue": 0.1, "trunk": 44.8, "head": 4.2},
    "links": {
        "picture": "/predictions/rwMr5mbexnMfdB9dnKSgxw/picture",
        "explain": "/explain?prediction_id=rwMr5mbexnMfdB9dnKSgxw",
        "gradcam": "/gradcam?prediction_id=rwMr5mbexnMfdB9dnKSgxw",
        "attention": "/attention?prediction_id=rwMr5mbexnMfdB9dnKSgxw",
        "tokens": "/tokens?prediction_id=rwMr5mbexnMfdB9dnKSgxw",
    },
}
EXPLANATION_EXAMPLE: dict[str, Any] = {
    "heatmap": [[-0.0021, 0.189], [0.0511, 0.092]],
    "shape": [2, 2],
    "units": "logit",
    "method": "integrated",
    "branch": "fusion",
    "fuse": "sum",
    "detail": "grid",
    "target": "malignant",
    "against": None,
    "branches": {
        "cnn": {"share": 0.88, "signed_sum": 0.3, "shapley_value": 0.31, "integrated_gradients_sum": 0.3},
        "swin": {"share": 0.12, "signed_sum": 0.03, "shapley_value": 0.02, "integrated_gradients_sum": 0.03},
    },
    "score": 0.42,
    "reference_score": 0.09,
    "completeness_error": 0.00001,
    "no_positive_evidence": False,
    "legend": {
        "colormap": "viridis",
        "low": 0.0,
        "high": 0.189,
        "minimum": -0.0021,
        "maximum": 0.189,
        "clip": None,
        "no_positive_evidence": False,
    },
    "notes": ["Evidence is what differs from the training data's mean maps, not from an empty picture."],
    "warnings": [],
    "provenance": {
        "bundle_sha256": "8ccb48ee87bd9a2ed5364ebe8f261afe" * 2,
        "model": "skin-demo 1",
        "engine": "torch 2.14.1",
        "fusionlens": "0.1.0",
    },
}


class ClassProbability(BaseModel):
    """One class and how likely the model thinks it is."""

    label: str = Field(description="name of the class")
    probability: float = Field(ge=0, le=1, description="calibrated with the bundle's temperature")


class ModelVersion(BaseModel):
    """Which model answered."""

    name: str = Field(description="name of the bundle")
    version: str = Field(description="version of the bundle")
    sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")


class PictureInfo(BaseModel):
    """The picture as it was understood: upright, first frame."""

    width_px: int = Field(description="width of the upright picture")
    height_px: int = Field(description="height of the upright picture")
    format: str = Field(description="what the bytes are, whatever the file is named")
    notes: list[str] = Field(description="what the sender may not expect, such as frames that were not used")
    seen: Rectangle = Field(description="what the model saw of it, in its pixels; a pixel's centre is at +0.5")


class Links(BaseModel):
    """Where to go on from here."""

    picture: str | None = Field(description="the preview that overlays are drawn on; null where `stored` is false")
    explain: str | None = Field(description="what speaks for the answer, on the picture; null where `stored` is false")
    gradcam: str | None = Field(description="the same by Grad-CAM; null where `stored` is false")
    attention: str | None = Field(description="null where the model has no cross-attention, or `stored` is false")
    tokens: str | None = Field(description="null where the bundle does not show the Swin's tokens, or as above")


class PredictionAnswer(BaseModel):
    """What `POST /predict` answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [PREDICTION_EXAMPLE]})

    prediction_id: str | None = Field(
        description="asks for explanations of this prediction until it expires; null where `stored` is false"
    )
    expires_at: datetime | None = Field(description="until when the prediction can be explained, UTC; null likewise")
    stored: bool = Field(description="false where the store could not take it: then explain the picture by POST")
    label: str = Field(description="the class chosen, by the bundle's decision threshold where it has one")
    probabilities: list[ClassProbability] = Field(description="every class, the most likely first")
    model: ModelVersion = Field(description="which model answered")
    picture: PictureInfo = Field(description="the picture as it was understood")
    timings_ms: dict[str, float] = Field(description="what decode, queue, trunk and head took, in ms")
    links: Links = Field(description="where to go on from here")


class Provenance(BaseModel):
    """What made an explanation."""

    bundle_sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")
    model: str = Field(description="name and version of the bundle")
    engine: str = Field(description="name and version of what ran the model")
    fusionlens: str = Field(description="version of this service")


class ExplanationAnswer(BaseModel):
    """An explanation as numbers: what `format=json` answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXPLANATION_EXAMPLE]})

    heatmap: list[list[float]] = Field(description="the raw signed map, row by row, on its own grid")
    shape: tuple[int, int] = Field(description="rows and columns of the map")
    units: str = Field(description="the unit of the map's values")
    method: str = Field(description="how the evidence was measured, or the attention or tokens shown")
    branch: str | None = Field(description="null for the cross-attention, which belongs to both branches")
    fuse: str | None = Field(description="how the branches' maps became one; null where the map is of one")
    detail: Detail = Field(description="the model's own grid, or a finer one from several views of the picture")
    target: str | None = Field(description="the class explained; null where the map is class-agnostic")
    against: str | None = Field(description="the class that the target is contrasted with, if any")
    branches: dict[Branch, Share] = Field(description="what each branch contributes; empty for attention and tokens")
    score: float | None = Field(
        None,
        description="the target's logit before temperature, less that of `against`; null for attention and tokens, and "
        "where the map is class-agnostic",
    )
    reference_score: float | None = Field(
        None, description="the score of the training data's mean maps; both branches' Shapley values add up to the rest"
    )
    completeness_error: float | None = Field(
        description="in logits, what both branches' maps add up to, less the difference of score and reference_score; "
        "null but for the method `integrated`"
    )
    no_positive_evidence: bool = Field(description="nothing in the map speaks for the target")
    legend: Legend = Field(description="how the map's values are drawn in the PNG")
    notes: list[str] = Field(description="how the map is to be read, in sentences")
    warnings: list[str] = Field(description="what is amiss with this very map, in sentences")
    provenance: Provenance = Field(description="what made this explanation")


class ModelCard(BaseModel):
    """The public part of the bundle's manifest, and the service's limits."""

    name: str = Field(description="name of the bundle")
    version: str = Field(description="version of the bundle")
    sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")
    classes: list[str] = Field(description="what the model tells apart")
    input: dict[str, Any] = Field(description="how a picture becomes the model's input")
    architecture: dict[str, Any] = Field(description="both backbones and how they are fused")
    calibration: dict[str, Any] = Field(description="temperature of the probabilities, and what it was fitted on")
    decision: dict[str, Any] | None = Field(description="from which probability on the label is `positive`, if any")
    metrics: dict[str, Any] = Field(description="figures of this model, and the pictures that they were taken on")
    licence: str = Field(description="terms of the weights")
    data: str = Field(description="where the training pictures came from, and their terms")
    notes: list[str] = Field(description="what a user must know, such as what the model is not for")
    methods: list[str] = Field(description="values of `method` for /explain, its default first")
    class_agnostic_methods: list[str] = Field(description="those of them that are of no class, and take no target")
    branches: list[str] = Field(description="values of `branch` for /explain")
    token_stages: list[int] = Field(description="values of `token_stage` for /tokens; empty where it is not offered")
    colormaps: list[str] = Field(description="values of `colormap`")
    limits: dict[str, int | float] = Field(description="what uploads may measure, and how long predictions are kept")
    engine: str = Field(description="name and version of what runs the model")
    fusionlens: str = Field(description="version of this service")


class Health(BaseModel):
    """Whether the service is up."""

    status: str = Field(description="`live` or `ready`")


class Reloaded(BaseModel):
    """What a reload came to."""

    changed: bool = Field(description="false where the folder holds the bundle that is served already")
    model: ModelVersion = Field(description="which model answers from now on")
