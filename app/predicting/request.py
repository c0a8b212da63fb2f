"""What may be asked of an explanation, as values: hashable, without HTTP and without a model.

A request is checked once, against what a model offers, by `Predictor.accept`. It names the queue of the service that
its work waits in, says whether it `needs_moved_views` (predictions of the picture moved by less than a cell), and
whether it `needs_answer_gradient`: then the gradient that explains the answer is computed together with the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from app.errors import BadParameter, NotOffered
from app.explain.attention import ATTENTION_METHODS, LAYERS, AttentionMethod, Layer, check_index
from app.explain.merge import MergeRule
from app.explain.methods import DEFAULT, METHODS, merge_rule_of
from app.models.feature_maps import Branch

View = Literal["fusion", Branch]
Detail = Literal["grid", "fine"]
Queue = Literal["explain", "swin"]
DETAILS: tuple[Detail, ...] = get_args(Detail)


@dataclass(frozen=True)
class Capabilities:
    """What a model can be asked: its classes, its branches, how they are fused, and its Swin's tokens.

    `token_stages` are the heights of the grids of the Swin's stages whose tokens can be explained, `queries` is the
    number of cells of the Swin's map, 0 without one.
    """

    classes: tuple[str, ...]
    branches: tuple[Branch, ...]
    fusion: str
    token_stages: tuple[int, ...]
    queries: int

    @property
    def views(self) -> list[View]:
        """What a heatmap can be of: all branches together, or one of them."""
        return ["fusion", *self.branches]

    @property
    def has_attention(self) -> bool:
        """Whether the branches meet in cross-attention."""
        return self.fusion == "cross_attention"

    def check_classes(self, target: str | None, against: str | None) -> None:
        """Refuse unknown classes, and the contrast of a class with itself. Raises BadParameter."""
        for name in (target, against):
            if name is not None and name not in self.classes:
                raise BadParameter(f"Unknown class {name!r}: choose one of {', '.join(self.classes)}.")
        if against is not None and against == target:
            raise BadParameter(
                f"{target} cannot be contrasted with itself: choose another class for target or against."
            )

    def check_tokens(self) -> None:
        """Raises NotOffered where the Swin's tokens cannot be explained."""
        if not self.token_stages:
            raise NotOffered(
                "This bundle does not show the Swin's tokens: its model has no such Swin, or it has no graph for them, "
                "which fusionlens-train compile BUNDLE OUT would make."
            )


@dataclass(frozen=True)
class HeatmapRequest:
    """Heatmaps of the evidence for a class, one for each of `views`.

    `target` None is the class that was answered. `against` is a class to contrast the target with. `merge` is the rule
    that merges the branches' heatmaps, None the method's default. `detail` fine takes several views of the picture for
    a finer grid: see `app.explain.fine`. With `branch_values`, each branch's Shapley value is computed too.
    """

    views: tuple[View, ...] = ("fusion",)
    method: str = DEFAULT
    target: str | None = None
    against: str | None = None
    merge: MergeRule | None = None
    detail: Detail = "grid"
    branch_values: bool = False

    queue: ClassVar[Queue] = "explain"
    needs_answer_gradient: ClassVar[bool] = True

    @property
    def needs_moved_views(self) -> bool:
        """Whether the picture's moved views go through the whole model too."""
        return self.detail == "fine"

    def check(self, capabilities: Capabilities) -> None:
        """Refuse what the model cannot answer. Raises BadParameter and NotOffered."""
        if self.method not in METHODS:
            raise BadParameter(f"Unknown method {self.method!r}: choose one of {', '.join(METHODS)}.")
        if self.detail not in DETAILS:
            raise BadParameter(f"Unknown detail {self.detail!r}: choose one of {', '.join(DETAILS)}.")
        for view in self.views:
            if view not in capabilities.views:
                raise NotOffered(f"This model has no {view} branch: choose one of {', '.join(capabilities.views)}.")
        if self.class_agnostic and (self.target or self.against):
            raise BadParameter(f"{self.method} is of no class: leave out target and against, or choose another method.")
        capabilities.check_classes(self.target, self.against)
        self._check_merge(capabilities)

    def _check_merge(self, capabilities: Capabilities) -> None:
        if self.merge is not None and "fusion" not in self.views:
            views = " and ".join(self.views)
            raise BadParameter(f"With {views} alone there is nothing to fuse: leave out fuse, or ask for fusion.")
        if self.merge is not None and len(capabilities.branches) == 1:
            raise NotOffered("This model has one branch, and nothing to fuse: leave out fuse.")
        merge_rule_of(self.method, self.merge)

    @property
    def class_agnostic(self) -> bool:
        """Whether the heatmap is of no class."""
        return METHODS[self.method].class_agnostic


@dataclass(frozen=True)
class AttentionRequest:
    """The attention of one query token or the mean over all, and of one head or the mean over all.

    In the `cross` layer the Swin's tokens attend to the CNN's map, in the `swin` layer (the Swin's last) to each other
    within their window. Method `gradient` is attention × gradient for `target` (None: the class that was answered),
    where `against` is given as a contrast with that class.
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
        """The Swin's own attention takes another pass through the Swin."""
        return "swin" if self.layer == "swin" else "explain"

    def check(self, capabilities: Capabilities) -> None:
        """Refuse what the model cannot answer. Raises BadParameter and NotOffered.

        The number of heads is not known before the attention is computed, so `head` is checked then.
        """
        if self.layer not in LAYERS:
            raise BadParameter(f"Unknown layer {self.layer!r}: choose one of {', '.join(LAYERS)}.")
        if self.layer == "swin":
            capabilities.check_tokens()
            if self.method != "raw":
                raise BadParameter("The Swin's own attention is given raw: leave out method.")
        elif not capabilities.has_attention:
            raise NotOffered(f"This model fuses by {capabilities.fusion}, without attention.")
        if self.method not in ATTENTION_METHODS:
            raise BadParameter(f"Unknown method {self.method!r}: choose one of {', '.join(ATTENTION_METHODS)}.")
        if self.class_agnostic and (self.target or self.against):
            raise BadParameter("Raw attention is of no class: leave out target and against, or choose method gradient.")
        capabilities.check_classes(self.target, self.against)
        check_index("query", self.query, capabilities.queries)

    @property
    def class_agnostic(self) -> bool:
        """Whether the map is of no class."""
        return self.method == "raw"


@dataclass(frozen=True)
class TokenRequest:
    """How much the Swin's tokens at one stage matter for a class, by |gradient × token|.

    `token_stage` is the height of the stage's grid, None the last stage's. `target` None is the class answered.
    """

    token_stage: int | None = None
    target: str | None = None
    against: str | None = None

    queue: ClassVar[Queue] = "swin"
    needs_moved_views: ClassVar[bool] = False
    needs_answer_gradient: ClassVar[bool] = False

    def check(self, capabilities: Capabilities) -> None:
        """Refuse what the model cannot answer. Raises BadParameter and NotOffered."""
        capabilities.check_tokens()
        if self.token_stage is not None and self.token_stage not in capabilities.token_stages:
            stages = ", ".join(map(str, capabilities.token_stages))
            raise BadParameter(f"There is no token_stage {self.token_stage}: choose one of {stages}.")
        capabilities.check_classes(self.target, self.against)


ExplanationRequest = HeatmapRequest | AttentionRequest | TokenRequest


@dataclass(frozen=True)
class AcceptedRequest:
    """A request that the model can answer: the result of `Predictor.accept`, and what `Predictor.explain` takes."""

    request: ExplanationRequest
