"""The bodies of the JSON responses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.bundles.manifest import ReasonCode
from app.drawing.overlay import Legend
from app.explain.merge import Share
from app.models.feature_maps import Branch
from app.pictures.rectangle import Rectangle
from app.predicting.request import Detail
from app.trust.assessment import Verdict

PREDICTION_EXAMPLE: dict[str, Any] = {
    "prediction_id": "rwMr5mbexnMfdB9dnKSgxw",
    "expires_at": "2026-01-01T12:15:00Z",
    "stored": True,
    "label": "malignant",
    "probabilities": [{"label": "malignant", "probability": 0.83}, {"label": "benign", "probability": 0.17}],
    "trust": {
        "decision": "refer",
        "reasons": [
            {
                "code": "more_than_one_class",
                "detail": "The classes benign and malignant are both possible at a coverage of 90 %.",
            }
        ],
        "prediction_set": ["benign", "malignant"],
        "coverage": 0.9,
        "probabilities": [{"label": "malignant", "probability": 0.79}, {"label": "benign", "probability": 0.21}],
        "in_distribution": True,
        "novelty_percentile": 41.2,
    },
    "trust_note": None,
    "model": {"name": "skin-demo", "version": "2", "sha256": "8ccb48ee87bd9a2ed5364ebe8f261afe" * 2},
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
        "novelty": "/novelty?prediction_id=rwMr5mbexnMfdB9dnKSgxw",
        "similar": "/similar?prediction_id=rwMr5mbexnMfdB9dnKSgxw",
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
    "every_class": None,
    "provenance": {
        "bundle_sha256": "8ccb48ee87bd9a2ed5364ebe8f261afe" * 2,
        "model": "skin-demo 2",
        "engine": "torch 2.14.1",
        "fusionlens": "0.1.0",
    },
}


class ClassProbability(BaseModel):
    """A class with its probability."""

    label: str = Field(description="name of the class")
    probability: float = Field(ge=0, le=1, description="probability, calibrated with the bundle's temperature")


class TrustReason(BaseModel):
    """Why an answer is doubtful."""

    code: ReasonCode = Field(description="a stable name")
    detail: str = Field(description="a sentence")


class TrustAnswer(BaseModel):
    """Whether an answer may be relied on."""

    decision: Verdict = Field(description="`refer` to a person if one of the reasons refers by the bundle's rule")
    reasons: list[TrustReason] = Field(description="why the answer is doubtful; reasons that do not refer are here too")
    prediction_set: list[str] = Field(
        description="the classes that are possible at `coverage`: one is a clear answer, several say that the picture "
        "does not decide between them, and none that the model is usually surer of pictures of each class; of "
        "more than two classes, one at least is possible"
    )
    coverage: float = Field(
        description="rate at which the prediction set contains the true class, for pictures of each class like those "
        "that the bundle was calibrated on"
    )
    probabilities: list[ClassProbability] = Field(
        description="all classes, the most probable first, by the trust part's calibration, which was chosen among "
        "several kinds"
    )
    in_distribution: bool = Field(description="false if the picture is unlike what the model was trained on")
    novelty_percentile: float = Field(
        ge=0, le=100, description="share of the calibration pictures that are less foreign than this one, in percent"
    )


class ModelVersion(BaseModel):
    """The model that answered."""

    name: str = Field(description="name of the bundle")
    version: str = Field(description="version of the bundle")
    sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")


class PictureInfo(BaseModel):
    """The decoded picture: its first frame, upright."""

    width_px: int = Field(description="width of the upright picture")
    height_px: int = Field(description="height of the upright picture")
    format: str = Field(description="format of the file, by its content")
    notes: list[str] = Field(
        description="sentences on what the sender may not expect, such as frames that were not used"
    )
    seen: Rectangle = Field(
        description="region of the picture that the model saw, in pixels; a pixel's centre is at +0.5"
    )


class Links(BaseModel):
    """Routes for this prediction. All of them are null if `stored` is false."""

    picture: str | None = Field(description="the preview that overlays are drawn on")
    explain: str | None = Field(description="what speaks for the answer, drawn over the picture")
    gradcam: str | None = Field(description="the same by Grad-CAM")
    attention: str | None = Field(
        description="where the transformer's tokens look; null also if the model has no cross-attention"
    )
    tokens: str | None = Field(
        description="how much the transformer's tokens matter; null also if the bundle cannot explain them"
    )
    novelty: str | None = Field(
        description="which parts of the picture are foreign; null also if the bundle lacks what that needs"
    )
    similar: str | None = Field(
        description="the training pictures that it resembles; null also if the bundle has no index of them"
    )


class PredictionAnswer(BaseModel):
    """The answer of `POST /predict`."""

    model_config = ConfigDict(json_schema_extra={"examples": [PREDICTION_EXAMPLE]})

    prediction_id: str | None = Field(
        description="id for the explanation routes until it expires; null if `stored` is false"
    )
    expires_at: datetime | None = Field(description="when the prediction expires, UTC; null if `stored` is false")
    stored: bool = Field(
        description="false if the store could not store the prediction: explain the picture by POST then"
    )
    label: str = Field(description="the predicted class, by the bundle's decision threshold if it has one")
    probabilities: list[ClassProbability] = Field(description="all classes, the most probable first")
    trust: TrustAnswer | None = Field(description="whether the answer may be relied on; null if that is not known")
    trust_note: str | None = Field(description="why `trust` is null")
    model: ModelVersion = Field(description="the model that answered")
    picture: PictureInfo = Field(description="the decoded picture")
    timings_ms: dict[str, float] = Field(description="durations of decode, queue, trunk and head, in ms")
    links: Links = Field(description="routes for this prediction")


class Provenance(BaseModel):
    """The bundle and the software that made an explanation."""

    bundle_sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")
    model: str = Field(description="name and version of the bundle")
    engine: str = Field(description="name and version of the engine that ran the model")
    fusionlens: str = Field(description="version of this service")


class ClassExplanation(BaseModel):
    """The part of an explanation that differs from class to class."""

    heatmap: list[list[float]] = Field(description="the raw signed map on its own grid, row by row")
    branches: dict[Branch, Share] = Field(description="contribution of each branch")
    score: float | None = Field(description="the class's logit before temperature")
    reference_score: float | None = Field(description="the same logit of the mean maps of the training data")
    completeness_error: float | None = Field(
        description="sum of both branches' maps minus the difference of the scores, in logits; null for other methods "
        "than `integrated`"
    )
    warnings: list[str] = Field(description="sentences on what is wrong with this map")


class ExplanationAnswer(BaseModel):
    """An explanation as numbers: the answer for `format=json`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXPLANATION_EXAMPLE]})

    heatmap: list[list[float]] = Field(description="the raw signed map on its own grid, row by row")
    shape: tuple[int, int] = Field(description="rows and columns of the map")
    units: str = Field(description="the unit of the map's values")
    method: str = Field(description="the explanation method, or the kind of attention, saliency or novelty")
    branch: str | None = Field(
        description="the branch or fusion that the map shows; null for the cross-attention and for novelty"
    )
    fuse: str | None = Field(description="rule that merged the branches' maps; null if the map is of one branch")
    detail: Detail = Field(description="the model's own grid, or a finer one from several views of the picture")
    target: str | None = Field(description="the class that is explained; null if the map is class-agnostic")
    against: str | None = Field(description="the class that the target is contrasted with, if any")
    branches: dict[Branch, Share] = Field(
        description="contribution of each branch; empty for attention, tokens and novelty"
    )
    score: float | None = Field(
        None,
        description="the target's logit before temperature, minus that of `against`; null for attention, tokens "
        "and novelty, and if the map is class-agnostic",
    )
    reference_score: float | None = Field(
        None,
        description="score of the mean maps of the training data; `score` minus this is the sum of the Shapley values",
    )
    completeness_error: float | None = Field(
        description="sum of both branches' maps minus the difference of `score` and `reference_score`, in logits; null "
        "for other methods than `integrated`"
    )
    no_positive_evidence: bool = Field(
        description="true if nothing in the map is above 0: nothing speaks for the target, or no part is foreign"
    )
    legend: Legend = Field(description="how the map's values are drawn in the PNG")
    notes: list[str] = Field(description="sentences on how to read the map")
    warnings: list[str] = Field(description="sentences on what is wrong with this map")
    every_class: dict[str, ClassExplanation] | None = Field(
        None, description="with `target=*`, the explanation of every class; all other fields are of the predicted label"
    )
    provenance: Provenance = Field(description="the bundle and the software that made this explanation")


class SimilarCase(BaseModel):
    """A training picture that resembles the one in question."""

    id: str = Field(
        description="the first 16 digits of the SHA-256 of its file, or its path in the data if the bundle's card "
        "allows that"
    )
    label: str = Field(description="the class that people gave it")
    similarity: float = Field(description="cosine of the model's feature maps, from -1 to 1")
    group: str | None = Field(description="the name of its group, such as a patient; null unless the card allows it")
    origin: Literal["training", "site"] = Field(
        description="`site` if it was added when the bundle was recalibrated for a site"
    )
    thumbnail: str | None = Field(
        description="a small JPEG as a data URL; null unless the card says that the licence allows it"
    )


class LabelShare(BaseModel):
    """A label with its share of some cases."""

    label: str = Field(description="name of the class")
    share: float = Field(ge=0, le=1, description="share of the cases that have it")


class SimilarAnswer(BaseModel):
    """The cases that a picture resembles most."""

    cases: list[SimilarCase] = Field(description="the most similar first, at most one of each group")
    shares: list[LabelShare] = Field(description="the labels of these cases, the most frequent first")
    notes: list[str] = Field(description="sentences on how to read the cases")
    model: ModelVersion = Field(description="the model that answered")


class ModelCard(BaseModel):
    """The public part of the bundle's manifest, and the service's limits."""

    name: str = Field(description="name of the bundle")
    version: str = Field(description="version of the bundle")
    sha256: str = Field(description="digest of the bundle's manifest, which holds the digest of every file")
    parent: str | None = Field(
        description="digest of the bundle that this one was recalibrated from, with the same weights; null for none"
    )
    classes: list[str] = Field(description="the classes of the model")
    input: dict[str, Any] = Field(description="how a picture becomes the model's input")
    architecture: dict[str, Any] = Field(description="the backbones and how they are fused")
    calibration: dict[str, Any] = Field(
        description="temperature of the probabilities, and the pictures that it was fitted on"
    )
    decision: dict[str, Any] | None = Field(
        description="the decision rule: from which probability on the label is `positive`, if it has one"
    )
    trust: dict[str, Any] | None = Field(
        description="what the bundle knows of its own limits: thresholds, the reasons that refer, the pictures that it "
        "was calibrated on, and figures of how well it does; null if it has no trust part"
    )
    metrics: dict[str, Any] = Field(description="metrics of the model, and the pictures that they were measured on")
    licence: str = Field(description="terms of use of the weights")
    data: str = Field(description="source of the training pictures, and their terms of use")
    notes: list[str] = Field(description="what a user must know, such as uses that the model is not made for")
    methods: list[str] = Field(description="values of `method` for /explain, the default first")
    default_method: str = Field(description="the method of /explain where none is named: that of the bundle's manifest")
    class_agnostic_methods: list[str] = Field(description="the methods that are class-agnostic, and take no target")
    branches: list[str] = Field(description="values of `branch` for /explain")
    token_stages: list[int] = Field(
        description="values of `token_stage` for /tokens; empty if the bundle cannot explain tokens"
    )
    novelty: bool = Field(description="whether /novelty can show which parts of a picture are foreign")
    cases: dict[str, Any] | None = Field(
        description="the index that /similar searches: how many pictures it has, and what it shows of them besides "
        "their labels; null if the bundle has none"
    )
    layers: list[str] = Field(description="values of `layer` for /attention; empty if there is no attention to show")
    colormaps: list[str] = Field(description="values of `colormap`")
    limits: dict[str, int | float] = Field(description="limits of uploads, and how long predictions are stored")
    engine: str = Field(description="name and version of the engine that runs the model")
    fusionlens: str = Field(description="version of this service")
    docs: bool = Field(description="whether this service has the pages /docs and /openapi.json")


class Health(BaseModel):
    """Whether the service is up."""

    status: str = Field(description="`live` or `ready`")


class Reloaded(BaseModel):
    """The result of a reload."""

    changed: bool = Field(description="false if the folder still holds the bundle that is served")
    model: ModelVersion = Field(description="the model that answers from now on")
