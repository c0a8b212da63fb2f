"""From picture to prediction to explanation, with one loaded bundle. Synchronous and thread-safe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from app.bundles.reader import Bundle
from app.cases.index import Case, CaseIndex
from app.cases.stored import cases_of
from app.drawing.overlay import Style
from app.drawing.png import encode_png
from app.engines.protocol import Engine
from app.errors import ModelGone, NotOffered
from app.explain.attention import attention_times_gradient
from app.explain.attribution import AttributionInput, Endpoints, Maps
from app.explain.fine import moved_views
from app.explain.merge import finest_grid
from app.explain.shapley import branch_parts, shapley_values
from app.models.feature_maps import Branch, FeatureMaps, batched, to_float16, to_float32, unbatched
from app.pictures.decode import Limits
from app.pictures.opened import OpenOptions, open_picture
from app.predicting.answer import Answer, answer_of, decision_bias
from app.predicting.assessed import assess_prediction, checked_coverage
from app.predicting.explanation import (
    Explanation,
    explain_attention,
    explain_heatmaps,
    explain_novelty,
    with_branch_values,
)
from app.predicting.overlays import draw_over
from app.predicting.prediction import Prediction, Upload, upload_of
from app.predicting.request import (
    AcceptedRequest,
    AttentionRequest,
    Capabilities,
    ExplanationRequest,
    HeatmapRequest,
    NoveltyRequest,
    TokenRequest,
    default_method_of,
)
from app.predicting.target import HeadScore, target_weights
from app.shapes import Float, Float32
from app.trust.assessment import Assessment
from app.trust.fitted import trust_of
from app.trust.novelty import pooled_one


class Predictor:
    """Predicts and explains with one bundle on one engine.

    `capabilities` says which requests its model can answer, `open_options` how its pictures are opened. Making one
    raises BundleError for a trust part and for an index of cases that cannot be right.
    """

    def __init__(self, bundle: Bundle, engine: Engine, limits: Limits, preview_side_px: int) -> None:
        self.bundle, self.engine = bundle, engine
        manifest = bundle.manifest
        self._bias = decision_bias(manifest)
        self._trust, self._cases = trust_of(bundle), cases_of(bundle)
        self._input_size = (manifest.input.height_px, manifest.input.width_px)
        self.open_options = OpenOptions(self._input_size, limits, preview_side_px, manifest.input.stretch)
        _, rows, columns = manifest.transformer_shape
        self.capabilities = Capabilities(
            manifest.classes,
            manifest.branches,
            manifest.architecture.fusion,
            engine.token_stages,
            engine.has_token_attention,
            rows * columns,
            default_method_of(manifest),
            self._trust is not None and self._trust.parts is not None,
            self._cases is not None,
        )

    @property
    def engine_version(self) -> str:
        """Name and version of the engine."""
        return f"{self.engine.name} {self.engine.version}"

    def open(self, data: bytes) -> Upload:
        """Decode an upload in this process. Raises what `app.pictures.decode.decode` raises."""
        return upload_of(open_picture(data, self.open_options))

    def predict(self, upload: Upload, with_gradient: bool = False) -> tuple[Prediction, dict[str, float]]:
        """The prediction for a picture, and the durations of trunk and head in ms.

        If `with_gradient` is set, the same pass of the head also computes the gradient that explains the answer.
        """
        return self.predict_batch([upload], with_gradient)[0]

    def predict_batch(
        self, uploads: Sequence[Upload], with_gradient: bool = False
    ) -> list[tuple[Prediction, dict[str, float]]]:
        """`predict` for several pictures in one pass of the model. The durations are those of the whole pass."""
        began = time.perf_counter()
        maps = self.engine.encode(np.stack([upload.image for upload in uploads]))
        encoded = time.perf_counter()
        # Rounded before the head, so that the answer and later explanations are computed from the same numbers.
        rounded = maps.map(to_float16)
        gradients: list[FeatureMaps[np.ndarray] | None] = [None] * len(uploads)
        if with_gradient:
            logits, gradients = self._answer_with_gradients(rounded.map(to_float32))
        else:
            logits = self.engine.classify(rounded.map(to_float32))
        spent_ms = {"trunk": (encoded - began) * 1e3, "head": (time.perf_counter() - encoded) * 1e3}
        pictures = zip(uploads, logits, unbatched(rounded), gradients, strict=True)
        return [
            (_copied(Prediction(self.bundle.sha256, of_picture, stored, upload, gradient)), spent_ms)
            for upload, of_picture, stored, gradient in pictures
        ]

    def _answer_with_gradients(
        self, maps: FeatureMaps[Float32[np.ndarray, "b c h w"]]
    ) -> tuple[Float32[np.ndarray, "b k"], list[FeatureMaps[np.ndarray] | None]]:
        """The logits, and for each picture the gradient of its answer's score.

        The gradient is None if the best two classes are so close that float32 rounding could have swapped them.
        """
        head = self.engine.answer(maps, self._bias)
        ranked = np.sort(head.logits + self._bias, axis=1)
        is_clear = ranked[:, -1] - ranked[:, -2] > 1e-4 * np.abs(ranked).max(axis=1)
        gradients = zip(unbatched(head.gradients), is_clear, strict=True)
        return head.logits, [gradient if clear else None for gradient, clear in gradients]

    def answer(self, prediction: Prediction) -> Answer:
        """The calibrated probabilities, and the label by the bundle's decision rule."""
        return answer_of(self.bundle.manifest, prediction.logits)

    def check_coverage(self, coverage: float | None) -> None:
        """Raises BadParameter for a coverage that the bundle's trust part, if it has one, cannot promise."""
        if self._trust is not None and self.bundle.manifest.trust is not None:
            checked_coverage(self.bundle.manifest.trust, self._trust, coverage)

    def assess(self, prediction: Prediction, coverage: float | None = None) -> Assessment | None:
        """Whether the answer may be relied on; None if the bundle has no trust part.

        `coverage` is that of the prediction set, by default the bundle's. Raises BadParameter if it cannot be promised,
        and ModelGone if another bundle made the prediction.
        """
        if self._trust is None or (rule := self.bundle.manifest.trust) is None:
            return None
        self._check_bundle(prediction)
        coverage = checked_coverage(rule, self._trust, coverage)
        return assess_prediction(self.bundle.manifest, self._trust, prediction, coverage)

    def check_cases(self) -> CaseIndex:
        """The index of similar cases. Raises NotOffered if the bundle has none."""
        if self._cases is None:
            raise NotOffered(
                "This bundle has no index of similar cases: fusionlens-train trust BUNDLE DATA OUT --cases makes one."
            )
        return self._cases

    def similar(self, prediction: Prediction, count: int) -> list[Case]:
        """The training pictures that the picture resembles most, of different groups.

        Raises NotOffered, and ModelGone if another bundle made the prediction.
        """
        return self.check_cases().nearest(pooled_one(self._maps(prediction)), count)

    def accept(self, request: ExplanationRequest) -> AcceptedRequest:
        """Check a request before anything is computed.

        Raises BadParameter, and NotOffered if the model lacks what the request needs.
        """
        if isinstance(request, HeatmapRequest):
            request = request.with_method(self.capabilities)
        request.check(self.capabilities)
        return AcceptedRequest(request)

    def explain(
        self, prediction: Prediction, accepted: AcceptedRequest, moved: Sequence[Prediction] | None = None
    ) -> list[Explanation]:
        """Answer a request with one explanation, or with one for each view of a `HeatmapRequest`.

        For every class, there is one for each class in the bundle's order, and then that of the answer's label again.
        For fine detail, `moved` are the predictions of `moved_uploads`; they are computed here if they are None. Raises
        BadParameter for an attention head that does not exist, and ModelGone if another bundle made the prediction.
        """
        match accepted.request:
            case HeatmapRequest(every_class=True) as request:
                # One after the other: the gradients of all classes at once would take much memory.
                targets = [*self.capabilities.classes, self.answer(prediction).label]
                return [self._heatmaps(prediction, replace(request, target=name), moved)[0] for name in targets]
            case HeatmapRequest() as request:
                return self._heatmaps(prediction, request, moved)
            case AttentionRequest() as request:
                return [self._attention(prediction, request)]
            case TokenRequest() as request:
                return [self._tokens(prediction, request)]
            case NoveltyRequest() as request:
                return [self._foreign_parts(prediction, request, moved)]

    def explain_one(self, prediction: Prediction, request: ExplanationRequest) -> Explanation:
        """Check a request and return its last explanation. Raises what `accept` and `explain` raise."""
        return self.explain(prediction, self.accept(request))[-1]

    def branch_logits(self, prediction: Prediction) -> dict[Branch, Float[np.ndarray, " k"]]:
        """Each branch's part of every logit: its Shapley value, where the baseline's map stands for an absent branch.

        The parts add up to the difference between the logits and those of the baseline. Raises ModelGone.
        """
        ends = np.stack([self._baseline_logits, prediction.logits])
        return branch_parts(
            self._maps(prediction), self.bundle.baseline, ends, lambda maps: self.engine.classify(FeatureMaps(maps))
        )

    def moved_uploads(self, prediction: Prediction) -> list[Upload]:
        """The views of the picture for fine detail, each moved by less than a cell; each takes another pass."""
        upload, grid = prediction.upload, finest_grid(prediction.maps.values())
        return [replace(upload, image=image) for image in moved_views(upload.image, grid)]

    def attribution_input(self, prediction: Prediction, target: str | None, against: str | None) -> AttributionInput:
        """The input of the methods in `app.explain`: the picture's maps and the score to explain. Raises ModelGone."""
        weights = target_weights(self.capabilities.classes, target, against)
        endpoints = Endpoints(float(self._baseline_logits @ weights), float(prediction.logits @ weights))
        of_answer = against is None and target == self.answer(prediction).label
        gradient = prediction.gradient if of_answer else None
        score = HeadScore(self.engine, weights)
        return AttributionInput(self._maps(prediction), self.bundle.baseline, score, endpoints, gradient)

    def warm_up(self) -> None:
        """Make one prediction and its overlay, so that the first request does not wait for lazy initialisation."""
        grey = np.full((*self._input_size, 3), 128, np.uint8)
        # The prediction runs the classifier graph, the explanation the explainer graph.
        unlimited = replace(self.open_options, limits=Limits())  # whatever the limits for uploads are
        prediction, _ = self.predict(upload_of(open_picture(encode_png(grey), unlimited)))
        explanation = self.explain_one(prediction, HeatmapRequest())
        encode_png(draw_over(prediction, explanation, Style()).picture)

    def _heatmaps(
        self, prediction: Prediction, request: HeatmapRequest, moved: Sequence[Prediction] | None
    ) -> list[Explanation]:
        if not request.class_agnostic:
            request = replace(request, target=self._target(prediction, request.target, request.against))
        views = self._views(prediction, request, moved)
        pictures = [self.attribution_input(view, request.target, request.against) for view in views]
        explanations = explain_heatmaps(pictures, request)
        if request.branch_values and not request.class_agnostic:
            values = shapley_values(pictures[0])
            explanations = [with_branch_values(explanation, values) for explanation in explanations]
        return explanations

    def _views(
        self,
        prediction: Prediction,
        request: HeatmapRequest | NoveltyRequest,
        moved: Sequence[Prediction] | None,
    ) -> list[Prediction]:
        """The predictions that a map is made from: the picture's and, for fine detail, those of its moved views."""
        if not request.needs_moved_views:
            return [prediction]
        if moved is None:
            uploads, with_gradient = self.moved_uploads(prediction), request.needs_answer_gradient
            moved = [self.predict(upload, with_gradient)[0] for upload in uploads]
        return [prediction, *moved]

    def _foreign_parts(
        self, prediction: Prediction, request: NoveltyRequest, moved: Sequence[Prediction] | None
    ) -> Explanation:
        rule, fitted = self.bundle.manifest.trust, self._trust
        assert rule is not None and fitted is not None and fitted.parts is not None
        parts, limit = fitted.parts, np.float32(fitted.parts.limit(rule.inside))
        views = self._views(prediction, request, moved)
        heatmaps = [parts.distances(self._maps(view)) - limit for view in views]
        return explain_novelty(heatmaps, finest_grid(prediction.maps.values()), rule.inside)

    def _attention(self, prediction: Prediction, request: AttentionRequest) -> Explanation:
        maps = self._maps(prediction)
        assert self.capabilities.transformer is not None
        own_map = maps[self.capabilities.transformer]
        own_grid = finest_grid([own_map])
        if request.layer != "cross":
            no_gradient = np.zeros_like(own_map)  # the attention does not depend on the gradient
            own_weights = self.engine.tokens(prediction.upload.image, no_gradient).attention
            assert own_weights is not None
            return explain_attention(own_weights, own_grid, own_grid, request, None)
        target = None if request.class_agnostic else self._target(prediction, request.target, request.against)
        weighting = target_weights(self.capabilities.classes, target, request.against)
        head = self.engine.explain(batched([maps]), weighting[None])
        assert head.attention is not None and head.attention_gradient is not None
        weights = head.attention[0]
        if request.method == "gradient":
            weights = attention_times_gradient(weights, head.attention_gradient[0])
        return explain_attention(weights, own_grid, finest_grid([maps["cnn"]]), request, target)

    def _tokens(self, prediction: Prediction, request: TokenRequest) -> Explanation:
        target = self._target(prediction, request.target, request.against)
        transformer = self.capabilities.transformer
        assert transformer is not None
        gradient = self.attribution_input(prediction, target, request.against).gradient()[transformer]
        saliency = self.engine.tokens(prediction.upload.image, gradient).saliency
        note = (
            "The size of gradient × token: how much a token matters, not whether it speaks for the class or against it."
        )
        return Explanation(
            heatmap=saliency[request.token_stage or self.capabilities.token_stages[-1]],
            method="token_saliency",
            units="logit",
            branch=transformer,
            target=target,
            against=request.against,
            notes=(note,),
        )

    def _target(self, prediction: Prediction, target: str | None, against: str | None) -> str:
        """The class to explain: `target`, or the answer's label if it is None. Raises BadParameter."""
        if target is None:
            target = self.answer(prediction).label
            self.capabilities.check_classes(target, against)  # the label may be the class in `against`
        return target

    def _maps(self, prediction: Prediction) -> Maps:
        """The prediction's feature maps in float32. Raises ModelGone."""
        self._check_bundle(prediction)
        return prediction.maps.map(to_float32)

    def _check_bundle(self, prediction: Prediction) -> None:
        if prediction.bundle_sha256 != self.bundle.sha256:
            raise ModelGone("The model that made this prediction is no longer loaded: send the picture again.")

    @cached_property
    def _baseline_logits(self) -> Float32[np.ndarray, " k"]:
        """The logits of the baseline, the training data's mean maps."""
        return np.asarray(self.engine.classify(batched([self.bundle.baseline]))[0])


def _copied(prediction: Prediction) -> Prediction:
    """A prediction with arrays of its own. Its parts of a batch would keep the whole batch in memory."""
    gradient = prediction.gradient
    return replace(
        prediction,
        logits=prediction.logits.copy(),
        maps=prediction.maps.map(np.copy),
        gradient=None if gradient is None else gradient.map(np.copy),
    )
