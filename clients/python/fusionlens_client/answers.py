"""The answers of the service as values. Their fields have the names and the meaning of the HTTP reference.

There are two exceptions, where a shorter name is wanted for something else: the facts about the picture are
`picture_info`, and a heatmap's values are `array`. Lists of labels with a number each are dicts, in the order of the
answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fusionlens_client.decoding import Wire


def _probabilities(ranked: list[dict[str, Any]]) -> dict[str, float]:
    return {one["label"]: float(one["probability"]) for one in ranked}


def _shares(ranked: list[dict[str, Any]]) -> dict[str, float]:
    return {one["label"]: float(one["share"]) for one in ranked}


def _heatmap(rows: list[list[float]]) -> npt.NDArray[np.float32]:
    array = np.array(rows, np.float32)
    if array.ndim != 2:
        raise ValueError("a heatmap has rows of numbers")
    return array


Probabilities: TypeAlias = Annotated[dict[str, float], Wire(decode=_probabilities)]
Shares: TypeAlias = Annotated[dict[str, float], Wire(decode=_shares)]
Values: TypeAlias = Annotated[npt.NDArray[np.float32], Wire("heatmap", _heatmap)]


@dataclass(frozen=True)
class Reason:
    """Why an answer is doubtful: a stable code, and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True)
class Trust:
    """Whether an answer may be relied on. With the decision `refer`, a person should judge the picture."""

    decision: str
    """`answer` or `refer`"""
    reasons: tuple[Reason, ...]
    prediction_set: tuple[str, ...]
    """the classes that are possible at `coverage`"""
    coverage: float
    probabilities: Probabilities
    """by the trust part's calibration, the most probable class first"""
    in_distribution: bool
    novelty_percentile: float
    """share of the calibration pictures that are less foreign, in percent"""


@dataclass(frozen=True)
class ModelVersion:
    """The model that answered."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Rectangle:
    """A region of a picture, in its pixels. A pixel's centre is at +0.5."""

    left_px: float
    top_px: float
    width_px: float
    height_px: float


@dataclass(frozen=True)
class PictureInfo:
    """The picture as the service decoded it: its first frame, upright."""

    width_px: int
    height_px: int
    format: str
    notes: tuple[str, ...]
    """what its sender may not expect, in sentences"""
    seen: Rectangle
    """the part that the model saw; the cells of a heatmap tile it"""


@dataclass(frozen=True)
class Links:
    """Paths for this prediction, from the root of the host on. None is what the model lacks, or was not stored."""

    picture: str | None
    explain: str | None
    gradcam: str | None
    attention: str | None
    tokens: str | None
    novelty: str | None
    similar: str | None


@dataclass(frozen=True)
class PredictionAnswer:
    """The answer to a picture."""

    prediction_id: str | None
    """None if it was not stored"""
    expires_at: datetime | None
    """until when it can be explained, UTC; None if it was not stored"""
    stored: bool
    label: str
    """the predicted class"""
    probabilities: Probabilities
    """all classes, the most probable first"""
    trust: Trust | None
    trust_note: str | None
    """why `trust` is None"""
    model: ModelVersion
    picture_info: Annotated[PictureInfo, Wire("picture")]
    timings_ms: dict[str, float]
    links: Links


@dataclass(frozen=True)
class Share:
    """The contribution of one branch to a map and to the score."""

    share: float | None
    signed_sum: float
    shapley_value: float | None
    integrated_gradients_sum: float | None


@dataclass(frozen=True)
class Legend:
    """How the values of a map are drawn in its overlay."""

    colormap: str
    low: float
    high: float
    minimum: float
    maximum: float
    clip: tuple[float, float] | None
    no_positive_evidence: bool


@dataclass(frozen=True)
class Provenance:
    """The bundle and the software that made an explanation."""

    bundle_sha256: str
    model: str
    engine: str
    fusionlens: str


@dataclass(frozen=True, eq=False)
class ClassExplanation:
    """The part of an explanation that differs from class to class."""

    array: Values = field(repr=False)
    branches: dict[str, Share]
    score: float | None
    reference_score: float | None
    completeness_error: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ExplanationAnswer:
    """A signed map of the picture, with the facts about it."""

    array: Values = field(repr=False)
    """the raw values on the map's own grid, float32, `[rows, columns]`, in `units`"""
    shape: tuple[int, int]
    units: str
    method: str
    branch: str | None
    fuse: str | None
    detail: str
    target: str | None
    """the class that is explained; None if the map is of no class"""
    against: str | None
    branches: dict[str, Share]
    score: float | None
    reference_score: float | None
    completeness_error: float | None
    no_positive_evidence: bool
    """nothing in the map is above 0"""
    legend: Legend
    notes: tuple[str, ...]
    """how to read the map"""
    warnings: tuple[str, ...]
    """what is wrong with this map"""
    every_class: dict[str, ClassExplanation] | None
    """with the target `*`, the explanation of every class; all other fields are of the predicted label"""
    provenance: Provenance


@dataclass(frozen=True)
class SimilarCase:
    """A training picture that resembles the one in question."""

    id: str
    label: str
    similarity: float
    """from -1 to 1, which is the picture itself"""
    group: str | None
    origin: str
    """`training`, or `site` if it was added when the bundle was recalibrated"""
    thumbnail: str | None
    """a small JPEG as a data URL"""


@dataclass(frozen=True)
class SimilarCases:
    """The cases that a picture resembles most, the most similar first."""

    cases: tuple[SimilarCase, ...]
    shares: Shares
    """the labels of these cases, each with its share"""
    notes: tuple[str, ...]
    model: ModelVersion


@dataclass(frozen=True)
class ModelCard:
    """The public part of the bundle's manifest, what may be asked, and the service's limits."""

    name: str
    version: str
    sha256: str
    parent: str | None
    classes: tuple[str, ...]
    input: dict[str, Any]
    architecture: dict[str, Any]
    calibration: dict[str, Any]
    decision: dict[str, Any] | None
    trust: dict[str, Any] | None
    metrics: dict[str, Any]
    licence: str
    data: str
    notes: tuple[str, ...]
    methods: tuple[str, ...]
    default_method: str
    class_agnostic_methods: tuple[str, ...]
    branches: tuple[str, ...]
    token_stages: tuple[int, ...]
    novelty: bool
    cases: dict[str, Any] | None
    layers: tuple[str, ...]
    colormaps: tuple[str, ...]
    limits: dict[str, float]
    engine: str
    fusionlens: str
    docs: bool


@dataclass(frozen=True)
class Health:
    """Whether the service is up: `live` or `ready`."""

    status: str
