"""The bodies that the service answers with."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from app.models.feature_maps import Branch


class ClassProbability(BaseModel):
    """One class and how likely the model thinks it is."""

    label: str
    probability: float = Field(ge=0, le=1, description="calibrated with the bundle's temperature")


class ModelVersion(BaseModel):
    """Which model answered."""

    name: str
    version: str
    sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")


class PictureInfo(BaseModel):
    """The picture as it was understood: upright, first frame."""

    width_px: int
    height_px: int
    format: str
    notes: list[str] = Field(description="what the sender may not expect, such as frames that were not used")


class Links(BaseModel):
    """Where to go on from here."""

    gradcam: str
    attention: str | None = Field(description="null where the model has no attention")


class PredictionAnswer(BaseModel):
    """What `POST /predict` answers."""

    prediction_id: str = Field(description="asks for explanations of this prediction until it expires")
    expires_at: datetime
    label: str = Field(description="the class chosen, by the bundle's decision threshold where it has one")
    probabilities: list[ClassProbability] = Field(description="every class, the most likely first")
    model: ModelVersion
    picture: PictureInfo
    timings_ms: dict[str, float] = Field(description="decode, queue, trunk and head")
    links: Links


class Share(BaseModel):
    """What one branch contributes to a map."""

    share: float = Field(ge=0, le=1, description="sum of its map's absolute values over that of both branches")
    signed_sum: float = Field(description="sum of its map, in the map's units")


class Legend(BaseModel):
    """How the map's values are drawn in the PNG."""

    colormap: str
    low: float = Field(description="the value at the low end of the colour map")
    high: float = Field(description="the value at the high end of the colour map")
    minimum: float = Field(description="the map's smallest value")
    maximum: float = Field(description="the map's largest value")
    clip: tuple[float, float] | None = Field(description="percentiles of the evidence that the ends stand for, if any")
    no_positive_evidence: bool = Field(description="nothing in the map speaks for the target: nothing is coloured")


class Provenance(BaseModel):
    """What made an explanation."""

    bundle_sha256: str
    model: str
    engine: str
    fusionlens: str


class ExplanationAnswer(BaseModel):
    """An explanation as numbers: what `format=json` answers."""

    heatmap: list[list[float]] = Field(description="the raw signed map, row by row, on the model's own grid")
    shape: tuple[int, int] = Field(description="rows and columns of the map")
    units: str
    method: str
    branch: str | None = Field(description="null for attention, which belongs to both branches")
    target: str | None = Field(description="the class explained; null where the map is class-agnostic")
    branches: dict[Branch, Share]
    no_positive_evidence: bool = Field(description="nothing in the map speaks for the target")
    legend: Legend
    notes: list[str]
    provenance: Provenance


class ModelCard(BaseModel):
    """The public part of the bundle's manifest, and the service's limits."""

    name: str
    version: str
    sha256: str
    classes: list[str]
    input: dict[str, Any]
    architecture: dict[str, Any]
    calibration: dict[str, Any]
    decision: dict[str, Any] | None
    metrics: dict[str, Any]
    licence: str
    data: str
    notes: list[str]
    methods: list[str]
    branches: list[str]
    colormaps: list[str]
    limits: dict[str, int | float]
    engine: str
    fusionlens: str


class Health(BaseModel):
    """Whether the service is up."""

    status: str
