"""Requests for explanations as plain values: hashable, without HTTP and without a model.

`Predictor.accept` checks a request once, against the capabilities of the model. `queue` names the queue of the service
in which its work waits. `needs_moved_views` says whether it needs predictions of the picture moved by less than a cell.
`needs_answer_gradient` says whether the gradient that explains the answer should be computed together with the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from app.bundles.manifest import MANIFEST, Manifest
from app.errors import BadParameter, BundleError, NotOffered
from app.explain.attention import ATTENTION_METHODS, LAYERS, AttentionMethod, Layer, check_index
from app.explain.merge import MergeRule
from app.explain.methods import DEFAULT, METHODS, merge_rule_of
from app.models.feature_maps import Branch, transformer_of

View = Literal["fusion", Branch]
Detail = Literal["grid", "fine"]
Queue = Literal["explain", "swin"]
DETAILS: tuple[Detail, ...] = get_args(Detail)
EVERY_CLASS = "*"  # the target that stands for all classes, one after the other


BUNDLE_DEFAULT = "default"  # as a method: the one that the bundle names


@dataclass(frozen=True)
class Capabilities:
    """What a model can answer: its classes, its branches, its fusion, and what can be shown of its transformer.

    `token_stages` are the grid heights of the transformer's stages whose tokens can be explained, and
    `has_token_attention` says whether the attention of its last layer can be shown. `queries` is the number of cells in
    the transformer's feature map, which are the query tokens of the attention; it is 0 without a transformer.
    `default_method` is the explanation method of its heatmaps where none is named. `has_foreign_parts` says whether it
    can show where a picture is foreign, and `has_cases` whether it can name similar training pictures.
    """

    classes: tuple[str, ...]
    branches: tuple[Branch, ...]
    fusion: str
    token_stages: tuple[int, ...]
    has_token_attention: bool
    queries: int
    default_method: str
    has_foreign_parts: bool
    has_cases: bool

    @property
    def views(self) -> list[View]:
        """The views of a heatmap: all branches together, or one of them."""
        return ["fusion", *self.branches]

    @property
    def transformer(self) -> Branch | None:
        """The transformer among the branches, if there is one."""
        return transformer_of(self.branches)

    @property
    def layers(self) -> list[Layer]:
        """The layers whose attention can be shown."""
        offered = {"cross": self.has_attention, self.transformer: self.has_token_attention}
        return [layer for layer in LAYERS if offered.get(layer)]

    @property
    def has_attention(self) -> bool:
        """Whether the branches are fused by cross-attention."""
        return self.fusion == "cross_attention"

    def check_classes(self, target: str | None, against: str | None) -> None:
        """Raises BadParameter for an unknown class, and for a class that is contrasted with itself."""
        for name in (target, against):
            if name is not None and name not in self.classes:
                raise BadParameter(f"Unknown class {name!r}: choose one of {', '.join(self.classes)}.")
        if against is not None and against == target:
            raise BadParameter(
                f"{target} cannot be contrasted with itself: choose another class for target or against."
            )

    def check_tokens(self) -> None:
        """Raises NotOffered where the transformer's tokens cannot be explained."""
        if not self.token_stages:
            raise NotOffered(
                "This bundle cannot explain the transformer's tokens: its model has none, or the bundle lacks the "
                "graph for them, which fusionlens-train compile BUNDLE OUT makes."
            )

    def check_own_attention(self, layer: Layer) -> None:
        """Raises NotOffered where the attention of the transformer's last layer, called `layer`, cannot be shown."""
        self.check_tokens()
        if layer != self.transformer:
            raise NotOffered(
                f"This model has no {layer}: its transformer is called {self.transformer}, also as a layer."
            )
        if not self.has_token_attention:
            raise NotOffered(
                "The last layer of this model's transformer has no attention between all cells of its map."
            )


@dataclass(frozen=True)
class HeatmapRequest:
    """A request for heatmaps of the evidence for a class, one for each of `views`.

    `method` is that of the model where it is `BUNDLE_DEFAULT`: see `with_method`. `target` is the class to explain;
    None stands for the answer's label, and `EVERY_CLASS` for all of them. `against` is a class to contrast it with.
    `merge` is the rule that merges the branches' heatmaps; None stands for the method's default. With `detail` fine,
    several moved views of the picture give a finer grid: see `app.explain.fine`. With `branch_values`, each branch's
    Shapley value is computed too.
    """

    views: tuple[View, ...] = ("fusion",)
    method: str = BUNDLE_DEFAULT
    target: str | None = None
    against: str | None = None
    merge: MergeRule | None = None
    detail: Detail = "grid"
    branch_values: bool = False

    queue: ClassVar[Queue] = "explain"

    @property
    def needs_answer_gradient(self) -> bool:
        """Whether the gradient that explains the answer is used."""
        return METHODS[self.method].uses_gradient

    @property
    def needs_moved_views(self) -> bool:
        """Whether the moved views of the picture must go through the whole model."""
        return self.detail == "fine"

    def with_method(self, capabilities: Capabilities) -> HeatmapRequest:
        """The request with the model's own method, where none is named."""
        return replace(self, method=capabilities.default_method) if self.method == BUNDLE_DEFAULT else self

    def check(self, capabilities: Capabilities) -> None:
        """Raises BadParameter and NotOffered if the model cannot answer this request."""
        if self.method not in METHODS:
            raise BadParameter(f"Unknown method {self.method!r}: choose one of {', '.join(METHODS)}.")
        check_detail(self.detail)
        for view in self.views:
            if view not in capabilities.views:
                raise NotOffered(f"This model has no {view} branch: choose one of {', '.join(capabilities.views)}.")
        if self.class_agnostic and (self.target or self.against):
            raise BadParameter(
                f"{self.method} is class-agnostic: leave out target and against, or choose another method."
            )
        if self.every_class:
            self._check_every_class()
        else:
            capabilities.check_classes(self.target, self.against)
        self._check_merge(capabilities)

    def _check_every_class(self) -> None:
        if self.against is not None:
            raise BadParameter(f"target={EVERY_CLASS} explains each class by itself: leave out against.")
        if len(self.views) > 1 or self.detail != "grid":
            raise BadParameter(f"target={EVERY_CLASS} gives a map of every class: leave out compare and detail.")

    def _check_merge(self, capabilities: Capabilities) -> None:
        if self.merge is not None and "fusion" not in self.views:
            views = " and ".join(self.views)
            raise BadParameter(
                f"With {views} alone there is nothing to fuse: leave out fuse, or choose the branch fusion."
            )
        if self.merge is not None and len(capabilities.branches) == 1:
            raise NotOffered("This model has only one branch, so there is nothing to fuse: leave out fuse.")
        merge_rule_of(self.method, self.merge)

    @property
    def every_class(self) -> bool:
        """Whether all classes are explained, one after the other."""
        return self.target == EVERY_CLASS

    @property
    def class_agnostic(self) -> bool:
        """Whether the method is class-agnostic."""
        return METHODS[self.method].class_agnostic


@dataclass(frozen=True)
class AttentionRequest:
    """A request for the attention of one query token and one head, or of their means where these are None.

    In the layer `cross`, the transformer's tokens attend to the cells of the CNN's map. In the layer `swin` or `vit`,
    the last one of such a transformer, they attend to each other, those of a Swin within their window. The method `raw`
    gives the attention weights. The method `gradient` gives attention × gradient of the score for `target` (None: the
    answer's label), contrasted with `against` if that is given.
    """

    layer: Layer = "cross"
    method: AttentionMethod = "raw"
    query: int | None = None
    head: int | None = None
    target: str | None = None
    against: str | None = None

    needs_moved_views: ClassVar[bool] = False
    needs_answer_gradient: ClassVar[bool] = False

    @property
    def queue(self) -> Queue:
        """The queue `swin` for the transformer's own attention, which takes another pass through the transformer."""
        return "explain" if self.layer == "cross" else "swin"

    def check(self, capabilities: Capabilities) -> None:
        """Raises BadParameter and NotOffered if the model cannot answer this request.

        `head` is checked later, because the number of heads is not known before the attention is computed.
        """
        if self.layer not in LAYERS:
            raise BadParameter(f"Unknown layer {self.layer!r}: choose one of {', '.join(LAYERS)}.")
        if self.layer != "cross":
            capabilities.check_own_attention(self.layer)
            if self.method != "raw":
                raise BadParameter("The transformer's own attention has the method raw alone: leave out method.")
        elif not capabilities.has_attention:
            raise NotOffered(f"This model fuses by {capabilities.fusion}, without cross-attention.")
        if self.method not in ATTENTION_METHODS:
            raise BadParameter(f"Unknown method {self.method!r}: choose one of {', '.join(ATTENTION_METHODS)}.")
        if self.class_agnostic and (self.target or self.against):
            raise BadParameter(
                "Raw attention is class-agnostic: leave out target and against, or choose the method gradient."
            )
        capabilities.check_classes(self.target, self.against)
        check_index("query", self.query, capabilities.queries)

    @property
    def class_agnostic(self) -> bool:
        """Whether the map is class-agnostic, as raw attention is."""
        return self.method == "raw"


@dataclass(frozen=True)
class TokenRequest:
    """A request for the saliency of the transformer's tokens at one stage: |gradient × token| of a class's score.

    `token_stage` is the height of the stage's grid; None stands for the last stage. `target` is the class to explain;
    None stands for the answer's label. `against` is a class to contrast it with.
    """

    token_stage: int | None = None
    target: str | None = None
    against: str | None = None

    queue: ClassVar[Queue] = "swin"
    needs_moved_views: ClassVar[bool] = False
    needs_answer_gradient: ClassVar[bool] = False

    def check(self, capabilities: Capabilities) -> None:
        """Raises BadParameter and NotOffered if the model cannot answer this request."""
        capabilities.check_tokens()
        if self.token_stage is not None and self.token_stage not in capabilities.token_stages:
            stages = ", ".join(map(str, capabilities.token_stages))
            raise BadParameter(f"There is no token_stage {self.token_stage}: choose one of {stages}.")
        capabilities.check_classes(self.target, self.against)


@dataclass(frozen=True)
class NoveltyRequest:
    """A request for a map of how foreign each part of a picture is to the model. It is of no class.

    With `detail` fine, several moved views of the picture give a finer grid: see `app.explain.fine`.
    """

    detail: Detail = "grid"

    queue: ClassVar[Queue] = "explain"
    needs_answer_gradient: ClassVar[bool] = False

    @property
    def needs_moved_views(self) -> bool:
        """Whether the moved views of the picture must go through the whole model."""
        return self.detail == "fine"

    def check(self, capabilities: Capabilities) -> None:
        """Raises BadParameter and NotOffered if the model cannot answer this request."""
        check_detail(self.detail)
        if not capabilities.has_foreign_parts:
            raise NotOffered(
                "This bundle cannot say where a picture is foreign: fusionlens-train trust BUNDLE DATA OUT fits what "
                "it lacks."
            )


def check_detail(detail: Detail) -> None:
    """Raises BadParameter for a detail that there is not."""
    if detail not in DETAILS:
        raise BadParameter(f"Unknown detail {detail!r}: choose one of {', '.join(DETAILS)}.")


ExplanationRequest = HeatmapRequest | AttentionRequest | TokenRequest | NoveltyRequest


def default_method_of(manifest: Manifest) -> str:
    """The explanation method that a bundle names, or `DEFAULT`.

    Raises BundleError for one that there is not, and for one that is class-agnostic, which could not explain a target.
    """
    method = DEFAULT if manifest.explanation is None else manifest.explanation.default_method
    if method not in METHODS or METHODS[method].class_agnostic:
        usable = ", ".join(name for name, one in METHODS.items() if not one.class_agnostic)
        raise BundleError(
            MANIFEST, f"explanation.default_method is {method!r}, which this version cannot use: name one of {usable}"
        )
    return method


@dataclass(frozen=True)
class AcceptedRequest:
    """A checked request, which the model can answer. `Predictor.accept` makes it, `Predictor.explain` takes it."""

    request: ExplanationRequest
