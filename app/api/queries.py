"""The parameters of the explanation routes, and the pure request that each URL stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.drawing.overlay import COLORMAPS, SMALLEST_PX, Style
from app.errors import BadParameter
from app.explain.attention import AttentionMethod, Layer
from app.explain.fine import MOVES
from app.explain.merge import MergeRule
from app.explain.methods import DEFAULT, METHODS
from app.predicting.explanation import Explanation
from app.predicting.request import AttentionRequest, Detail, ExplanationRequest, HeatmapRequest, TokenRequest, View

Format = Literal["png", "json", "npy"]
PREDICTION_ID = Field(description="from the answer of POST /predict", examples=["tpMCQLqvrsyPlbwVraAaYQ"])
_STYLE = Style()
_CLASS_AGNOSTIC = [name for name, method in METHODS.items() if method.class_agnostic]


def method_field(default: str) -> Any:
    """The parameter `method` of a route with this default."""
    return Field(
        default,
        description=f"how evidence is measured; {' and '.join(_CLASS_AGNOSTIC)} is of no class, and takes no target",
        json_schema_extra={"enum": [*METHODS]},
    )


class ExplanationQuery(BaseModel, ABC):
    """How an explanation is drawn or encoded, and of which class it is."""

    model_config = ConfigDict(extra="forbid")

    format: Format = Field("png", description="overlay on the picture, numbers with their legend, or the raw array")
    target: str | None = Field(
        None, description="the class to explain; by default the one that was answered", examples=["malignant"]
    )
    against: str | None = Field(
        None,
        description="another class: what speaks for the target rather than for this one",
        examples=["benign"],
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="one opacity everywhere, instead of the two below", examples=[0.5]
    )
    alpha_min: float = Field(_STYLE.alpha_min, ge=0, le=1, description="opacity at the weakest evidence drawn")
    alpha_max: float = Field(_STYLE.alpha_max, ge=0, le=1, description="opacity at the strongest evidence")
    clip_low: float = Field(0.0, ge=0, le=100, description="percentile of the positive evidence that is drawn weakest")
    clip_high: float = Field(100.0, ge=0, le=100, description="percentile of it from which on it is drawn strongest")
    size: int | None = Field(
        None, ge=SMALLEST_PX, description="longest side of the overlay, in px, where the picture has as many"
    )
    contour: float | None = Field(
        None, gt=0, lt=1, description="draw a line around what reaches this part of the scale", examples=[0.5]
    )
    threshold: float = Field(
        _STYLE.threshold, ge=0, lt=1, description="leave bare what does not reach this part of the scale"
    )
    colormap: str = Field(_STYLE.colormap, description="name of a colour map", json_schema_extra={"enum": [*COLORMAPS]})

    def style(self) -> Style:
        """How a PNG is drawn. Raises BadParameter."""
        if self.alpha is not None and self.model_fields_set & {"alpha_min", "alpha_max"}:
            raise BadParameter("Choose either alpha, or alpha_min and alpha_max.")
        low, high = (self.alpha_min, self.alpha_max) if self.alpha is None else (self.alpha, self.alpha)
        clip = (self.clip_low, self.clip_high)
        return Style(
            self.colormap, low, high, None if clip == (0, 100) else clip, self.contour, self.size, self.threshold
        )

    @abstractmethod
    def request(self) -> ExplanationRequest:
        """What is asked of the model. Raises BadParameter for parameters that exclude each other."""

    def array(self, explanation: Explanation) -> Float32[np.ndarray, "..."]:
        """What `format=npy` gives."""
        return explanation.heatmap


class ExplainQuery(ExplanationQuery):
    """Parameters of `/explain`."""

    branch: View = Field("fusion", description="both branches together, or one of them")
    method: str = method_field(DEFAULT)
    fuse: MergeRule | None = Field(
        None,
        description="how the branches become one map: their sum in logits, which is the default, or the mean, maximum "
        "or product of the maps, each scaled to its own maximum; the mean where a method's values have no unit",
    )
    detail: Detail = Field(
        "grid",
        description=f"the model's own grid, or a finer one from {len(MOVES)} views of the picture, each a pass of the "
        "whole model",
    )
    compare: str | None = Field(
        None,
        description="several branches side by side, instead of `branch`; PNG only",
        examples=["cnn,swin,fusion"],
    )

    @field_validator("method")
    @classmethod
    def _restore_plus_signs(cls, method: str) -> str:
        return method.replace(" ", "+")  # a URL's "gradcam++" arrives like this, unless its signs were escaped

    def request(self) -> HeatmapRequest:
        """One heatmap, or one for each branch to compare. Raises BadParameter."""
        return HeatmapRequest(
            self._views(),
            self.method,
            self.target,
            self.against,
            self.fuse,
            self.detail,
            branch_values=self.format == "json",  # more passes of the head, for those only who can see the values
        )

    def _views(self) -> tuple[View, ...]:
        if self.compare is None:
            return (self.branch,)
        if self.format != "png" or "branch" in self.model_fields_set:
            raise BadParameter("compare gives one PNG of several branches: leave out format and branch.")
        names = self.compare.split(",")
        views = tuple(view for name in names for view in get_args(View) if view == name)
        if len(views) != len(names) or len(views) != len({*views}):
            raise BadParameter(f"Cannot compare {self.compare!r}: name branches, once each: cnn,swin,fusion.")
        if self.fuse is not None and "fusion" not in views:
            raise BadParameter("fuse says how the branches are fused: compare with fusion too, or leave it out.")
        return views


class GradcamQuery(ExplainQuery):
    """Parameters of `/gradcam`: those of `/explain`, with Grad-CAM as the method unless another is named."""

    method: str = method_field("gradcam")


class AttentionQuery(ExplanationQuery):
    """Parameters of `/attention`."""

    method: AttentionMethod = Field(
        "raw", description="the weights, which are of no class and take no target, or their product with the gradient"
    )
    layer: Layer = Field(
        "cross", description="the cross-attention, in the CNN's map, or the Swin's last layer, among its own tokens"
    )
    query: int | None = Field(
        None, ge=0, description="one Swin token, counted row by row; by default their mean", examples=[24]
    )
    head: int | None = Field(None, ge=0, description="one attention head; by default their mean", examples=[0])
    whole: bool = Field(
        False,
        description="all maps at once, as npy: heads × rows and columns of query tokens × rows and columns of the map",
    )

    def request(self) -> AttentionRequest:
        """Raises BadParameter."""
        if self.whole and (self.format != "npy" or self.query is not None or self.head is not None):
            raise BadParameter("whole gives every head and query as npy: add format=npy, and leave out query and head.")
        return AttentionRequest(self.layer, self.method, self.query, self.head, self.target, self.against)

    def array(self, explanation: Explanation) -> Float32[np.ndarray, "..."]:
        """What `format=npy` gives."""
        if not self.whole:
            return explanation.heatmap
        assert explanation.attention is not None
        return explanation.attention


class TokensQuery(ExplanationQuery):
    """Parameters of `/tokens`."""

    token_stage: int | None = Field(
        None, description="height of the stage's grid, one of the model's `token_stages`; by default the last one's"
    )

    def request(self) -> TokenRequest:
        """The request."""
        return TokenRequest(self.token_stage, self.target, self.against)


class StoredExplainQuery(ExplainQuery):
    """Parameters of `GET /explain`."""

    prediction_id: str = PREDICTION_ID


class StoredGradcamQuery(GradcamQuery):
    """Parameters of `GET /gradcam`."""

    prediction_id: str = PREDICTION_ID


class StoredAttentionQuery(AttentionQuery):
    """Parameters of `GET /attention`."""

    prediction_id: str = PREDICTION_ID


class StoredTokensQuery(TokensQuery):
    """Parameters of `GET /tokens`."""

    prediction_id: str = PREDICTION_ID
