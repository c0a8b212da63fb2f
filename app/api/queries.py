"""The query parameters of the explanation routes, and how they become requests of `app.predicting.request`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from app.arguments import PLAIN_NUMBERS
from app.cases.index import MOST_CASES
from app.drawing.overlay import COLORMAPS, SMALLEST_PX, Style
from app.errors import BadParameter
from app.explain.attention import AttentionMethod, Layer
from app.explain.fine import MOVES
from app.explain.merge import MergeRule
from app.explain.methods import METHODS
from app.predicting.explanation import Explanation
from app.predicting.request import (
    BUNDLE_DEFAULT,
    EVERY_CLASS,
    AttentionRequest,
    Detail,
    ExplanationRequest,
    HeatmapRequest,
    NoveltyRequest,
    TokenRequest,
    View,
)
from app.shapes import Float32

# Bounds of numbers, far beyond what any model or drawing has.
MAX_SIZE_PX, MAX_INDEX = 100_000, 1_000_000
Format = Literal["png", "json", "npy"]
PREDICTION_ID = Field(
    description="`prediction_id` from the answer of POST /predict", examples=["tpMCQLqvrsyPlbwVraAaYQ"]
)
_STYLE = Style()
# The parameters of a drawing alone, and those that the legend of `format=json` has too.
_DRAWN, _SCALED = (
    ("alpha", "alpha_min", "alpha_max", "contour", "size", "threshold"),
    ("clip_low", "clip_high", "colormap"),
)
_CLASS_AGNOSTIC = [name for name, method in METHODS.items() if method.class_agnostic]


def method_field(default: str) -> Any:
    """The parameter `method` for a route with this default."""
    return Field(
        default,
        description=f"explanation method; `{BUNDLE_DEFAULT}` is the one that the bundle names: see `default_method` at "
        f"GET /model; {' and '.join(_CLASS_AGNOSTIC)} is class-agnostic, and takes no target",
        json_schema_extra={"enum": [BUNDLE_DEFAULT, *METHODS]},
    )


class StrictQuery(BaseModel):
    """Parameters of a route: there are no others, and numbers are written in plain digits."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _plain_number(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        for kind in {annotation, *get_args(annotation)} & PLAIN_NUMBERS.keys():
            if isinstance(value, str) and not re.fullmatch(PLAIN_NUMBERS[kind], value.strip()):
                name = "integer" if kind is int else "number"
                raise PydanticCustomError("plain_number", f"Input should be a valid {name}, in plain digits")
        return value


class PredictQuery(StrictQuery):
    """The parameters of `POST /predict`."""

    coverage: float | None = Field(
        None,
        ge=0.5,
        le=0.99,
        description="rate at which the prediction set has the true class, class by class; by default the bundle's. 422 "
        "if the bundle was calibrated on too few pictures to promise it",
        examples=[0.9],
    )


class ExplanationQuery(StrictQuery, ABC):
    """The parameters of all explanation routes: the format, and the drawing."""

    format: Format = Field(
        "png", description="overlay on the picture, JSON with the numbers and their legend, or the raw array"
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="uniform opacity, instead of alpha_min and alpha_max", examples=[0.5]
    )
    alpha_min: float = Field(_STYLE.alpha_min, ge=0, le=1, description="opacity at the weakest evidence drawn")
    alpha_max: float = Field(_STYLE.alpha_max, ge=0, le=1, description="opacity at the strongest evidence")
    clip_low: float = Field(
        0.0, ge=0, le=100, description="percentile of the positive evidence at the low end of the colour map"
    )
    clip_high: float = Field(
        100.0, ge=0, le=100, description="percentile of the positive evidence at the high end of the colour map"
    )
    size: int | None = Field(
        None,
        ge=SMALLEST_PX,
        le=MAX_SIZE_PX,
        description="longest side of the overlay, or with compare of each panel, in px; pictures that are smaller, and "
        "the preview of `preview_side_px` at GET /model, are not enlarged, and a note says so",
    )
    contour: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="draw a line around the area that reaches this fraction of the scale",
        examples=[0.5],
    )
    threshold: float = Field(
        _STYLE.threshold, ge=0, lt=1, description="do not colour what is below this fraction of the scale"
    )
    colormap: str = Field(
        _STYLE.colormap, description="name of the colour map", json_schema_extra={"enum": [*COLORMAPS]}
    )

    def style(self) -> Style:
        """The style of the overlay. Raises BadParameter."""
        if self.alpha is not None and self.model_fields_set & {"alpha_min", "alpha_max"}:
            raise BadParameter("Choose either alpha, or alpha_min and alpha_max.")
        low, high = (self.alpha_min, self.alpha_max) if self.alpha is None else (self.alpha, self.alpha)
        clip = (self.clip_low, self.clip_high)
        return Style(
            self.colormap, low, high, None if clip == (0, 100) else clip, self.contour, self.size, self.threshold
        )

    def unused(self) -> list[str]:
        """The names of parameters that were given, but say nothing in this format."""
        names = _DRAWN if self.format == "json" else (*_DRAWN, *_SCALED) if self.format == "npy" else ()
        return [name for name in names if name in self.model_fields_set]

    @abstractmethod
    def request(self) -> ExplanationRequest:
        """The request to the model. Raises BadParameter for parameters that exclude each other."""

    @property
    def every_class(self) -> bool:
        """Whether every class is explained."""
        return False

    def array(self, explanations: Sequence[Explanation]) -> Float32[np.ndarray, "..."]:
        """The array for `format=npy`."""
        return explanations[-1].heatmap


class ClassQuery(ExplanationQuery, ABC):
    """The parameters of the routes that explain a class."""

    target: str | None = Field(
        None,
        description="class to explain; by default the predicted label. For heatmaps as JSON or npy, `*` stands for all "
        "classes",
        examples=["malignant"],
    )
    against: str | None = Field(
        None,
        description="class to contrast the target with: explains the difference of their logits",
        examples=["benign"],
    )


_DETAIL: Any = Field(
    "grid",
    description=f"the model's own grid, or a finer one from {len(MOVES)} views of the picture; each view takes a pass "
    "of the whole model",
)


class ExplainQuery(ClassQuery):
    """Parameters of `/explain`."""

    branch: View = Field("fusion", description="both branches together, or one of them")
    method: str = method_field(BUNDLE_DEFAULT)
    fuse: MergeRule | None = Field(
        None,
        description="rule that merges the branches' maps: their sum in logits, or the mean, maximum or product of the "
        "maps after each is scaled to its own maximum; by default the sum, or the mean if the values have no unit",
    )
    detail: Detail = _DETAIL
    compare: str | None = Field(
        None,
        description="several branches side by side, instead of `branch`; only for PNG",
        examples=["cnn,swin,fusion"],
    )

    @field_validator("method")
    @classmethod
    def _restore_plus_signs(cls, method: str, info: Any) -> str:
        # In a query string an unescaped "+" stands for a space, but not in the fields of a form: see `with_fields`.
        return method if "method" in (info.context or {}).get("form_fields", ()) else method.replace(" ", "+")

    def request(self) -> HeatmapRequest:
        """A request for one heatmap, or for one for each branch to compare. Raises BadParameter."""
        if self.every_class and self.format == "png":
            raise BadParameter(f"target={EVERY_CLASS} gives a map of every class: add format=json or format=npy.")
        return HeatmapRequest(
            self._views(),
            self.method,
            self.target,
            self.against,
            self.fuse,
            self.detail,
            branch_values=self.format == "json",  # only JSON shows the values, which take more passes of the head
        )

    @property
    def every_class(self) -> bool:
        """Whether every class is explained."""
        return self.target == EVERY_CLASS

    def array(self, explanations: Sequence[Explanation]) -> Float32[np.ndarray, "..."]:
        """The array for `format=npy`: a map, or those of every class in the bundle's order."""
        if self.every_class:
            return np.stack([explanation.heatmap for explanation in explanations[:-1]])
        return explanations[-1].heatmap

    def _views(self) -> tuple[View, ...]:
        if self.compare is None:
            return (self.branch,)
        if self.format != "png" or "branch" in self.model_fields_set:
            raise BadParameter("compare gives one PNG of several branches: leave out format and branch.")
        names = self.compare.split(",")
        views = tuple(view for name in names for view in get_args(View) if view == name)
        if len(views) != len(names) or len(views) != len({*views}):
            raise BadParameter(f"Cannot compare {self.compare!r}: name branches, each once, such as cnn,swin,fusion.")
        if self.fuse is not None and "fusion" not in views:
            raise BadParameter("fuse applies to the branch fusion alone: add fusion to compare, or leave out fuse.")
        return views


class GradcamQuery(ExplainQuery):
    """Parameters of `/gradcam`: those of `/explain`, but the default method is Grad-CAM."""

    method: str = method_field("gradcam")


class AttentionQuery(ClassQuery):
    """Parameters of `/attention`."""

    method: AttentionMethod = Field(
        "raw", description="the weights, which are class-agnostic and take no target, or attention × gradient"
    )
    layer: Layer = Field(
        "cross",
        description="the cross-attention to the cells of the CNN's map, or the transformer's last layer, by its name",
    )
    query: int | None = Field(
        None,
        ge=0,
        le=MAX_INDEX,
        description="index of one query token of the transformer, row by row; by default the mean over all",
        examples=[24],
    )
    head: int | None = Field(
        None, ge=0, le=MAX_INDEX, description="index of one attention head; by default the mean over all", examples=[0]
    )
    whole: bool = Field(
        False,
        description="every head and query at once, as npy: heads × rows × columns of queries × rows × columns of keys",
    )

    def request(self) -> AttentionRequest:
        """The request for attention. Raises BadParameter."""
        if self.whole and (self.format != "npy" or self.query is not None or self.head is not None):
            raise BadParameter("whole gives every head and query as npy: add format=npy, and leave out query and head.")
        return AttentionRequest(self.layer, self.method, self.query, self.head, self.target, self.against)

    def array(self, explanations: Sequence[Explanation]) -> Float32[np.ndarray, "..."]:
        """The array for `format=npy`."""
        if not self.whole:
            return super().array(explanations)
        attention = explanations[-1].attention
        assert attention is not None
        return attention


class TokensQuery(ClassQuery):
    """Parameters of `/tokens`."""

    token_stage: int | None = Field(
        None,
        ge=1,
        le=MAX_INDEX,
        description="height of the stage's grid, one of `token_stages` at GET /model; by default the last stage",
    )

    def request(self) -> TokenRequest:
        """The request for the saliency of tokens."""
        return TokenRequest(self.token_stage, self.target, self.against)


class NoveltyQuery(ExplanationQuery):
    """Parameters of `/novelty`."""

    detail: Detail = _DETAIL

    def request(self) -> NoveltyRequest:
        """The request for the map of foreign parts."""
        return NoveltyRequest(self.detail)


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


class SimilarQuery(StrictQuery):
    """Parameters of `/similar`."""

    k: int = Field(5, ge=1, le=MOST_CASES, description="how many cases, of different groups")


class StoredSimilarQuery(SimilarQuery):
    """Parameters of `GET /similar`."""

    prediction_id: str = PREDICTION_ID


class StoredNoveltyQuery(NoveltyQuery):
    """Parameters of `GET /novelty`."""

    prediction_id: str = PREDICTION_ID
