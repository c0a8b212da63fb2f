"""Picture to prediction to explanation, for one loaded bundle. Synchronous; safe in several threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from app.bundles.reader import Bundle
from app.drawing.overlay import Style
from app.drawing.png import encode_png
from app.engines.protocol import Engine
from app.errors import BadParameter, ModelGone, NotOffered
from app.explain.attention import (
    ATTENTION_METHODS,
    LAYERS,
    AttentionMethod,
    Layer,
    attention_map,
    attention_times_gradient,
    check_index,
    on_grids,
)
from app.explain.attribution import Ends, Maps, Subject
from app.explain.fine import moved_views
from app.explain.methods import METHODS
from app.explain.shapley import BranchValues, shapley_values
from app.models.feature_maps import BRANCHES, FeatureMaps, to_half, widened
from app.pictures.decode import Limits
from app.predicting.answer import Answer, answer_of, decision_bias
from app.predicting.explanation import Explanation, Question, View, explain, finest_grid
from app.predicting.overlays import draw_over
from app.predicting.prediction import Prediction, Upload, open_upload
from app.predicting.target import HeadScore, check_classes, target_weights


class Predictor:
    """Answers and explains with one bundle on one engine."""

    def __init__(self, bundle: Bundle, engine: Engine, limits: Limits, preview_side_px: int) -> None:
        self.bundle, self.engine = bundle, engine
        self._limits, self._preview_side_px = limits, preview_side_px
        self._classes = bundle.manifest.classes
        self._bias = decision_bias(bundle.manifest)
        self._input_size = (bundle.manifest.input.height_px, bundle.manifest.input.width_px)

    @cached_property
    def _reference_logits(self) -> Float32[np.ndarray, " k"]:
        """The logits of the training data's mean maps."""
        maps = FeatureMaps(**{branch: mean[None] for branch, mean in self.bundle.reference.items()})
        return np.asarray(self.engine.classify(maps)[0])

    @property
    def views(self) -> list[View]:
        """What `gradcam` can be asked for with this model."""
        return ["fusion", *(branch for branch in BRANCHES if branch in self.bundle.manifest.map_shapes)]

    @property
    def engine_version(self) -> str:
        """Name and version of what runs the model."""
        return f"{self.engine.name} {self.engine.version}"

    @property
    def has_attention(self) -> bool:
        """Whether this model's branches meet in cross-attention."""
        return self.bundle.manifest.architecture.fusion == "cross_attention"

    def open(self, data: bytes) -> Upload:
        """Decode an upload. Raises what `preprocess.decode` raises."""
        return open_upload(data, self._input_size, self._limits, self._preview_side_px)

    def predict(self, upload: Upload, explained: bool = False) -> tuple[Prediction, dict[str, float]]:
        """The prediction for a picture, and what trunk and head took in ms.

        With `explained`, one pass of the head gives both the answer and what explains it.
        """
        return self.predict_batch([upload], explained)[0]

    def predict_batch(
        self, uploads: Sequence[Upload], explained: bool = False
    ) -> list[tuple[Prediction, dict[str, float]]]:
        """`predict` for several pictures in one pass; the times are the pass's."""
        began = time.perf_counter()
        maps = self.engine.encode(np.stack([upload.image for upload in uploads]))
        encoded = time.perf_counter()
        # Rounded before the head, so that the answer and its later explanations rest on the same numbers.
        rounded = FeatureMaps(**{branch: to_half(m) for branch, m in maps.items()})
        gradients: list[Maps | None] = [None] * len(uploads)
        if explained:
            logits, gradients = self._answered(widened(rounded))
        else:
            logits = self.engine.classify(widened(rounded))
        spent_ms = {"trunk": (encoded - began) * 1e3, "head": (time.perf_counter() - encoded) * 1e3}
        predictions = []
        for n, upload in enumerate(uploads):
            kept = FeatureMaps(**{branch: m[n].copy() for branch, m in rounded.items()})
            predictions.append((Prediction(self.bundle.sha256, logits[n], kept, upload, gradients[n]), spent_ms))
        return predictions

    def _answered(
        self, maps: FeatureMaps[Float32[np.ndarray, "b c h w"]]
    ) -> tuple[Float32[np.ndarray, "b k"], list[Maps | None]]:
        """Logits, and each answer's gradient; None where two classes are so near that rounding may have chosen."""
        found = self.engine.answer(maps, self._bias)
        ranked = np.sort(found.logits + self._bias, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 1e-4 * np.abs(ranked).max(axis=1)
        gradients = {branch: getattr(found, f"{branch}_gradient") for branch, _ in maps.items()}
        return found.logits, [
            {branch: gradient[n] for branch, gradient in gradients.items()} if is_clear else None
            for n, is_clear in enumerate(clear)
        ]

    def answer(self, prediction: Prediction) -> Answer:
        """Calibrated probabilities, and the label that the bundle's decision rule gives."""
        return answer_of(self.bundle.manifest, prediction.logits)

    def gradcam(self, prediction: Prediction, question: Question) -> Explanation:
        """What speaks for a class, in one branch or both together.

        Raises BadParameter, NotOffered where the model lacks what is asked for, and ModelGone.
        """
        return self.compare(prediction, [question])[0]

    def compare(
        self, prediction: Prediction, questions: Sequence[Question], moved: Sequence[Prediction] | None = None
    ) -> list[Explanation]:
        """`gradcam` for questions that differ in their view and fusion alone, for little more than one costs.

        Where fine detail is asked for, `moved` are the predictions of `moved_uploads`, if they are there already.
        Raises what `gradcam` raises.
        """
        for question in questions:
            self.check_gradcam(question)
        first = questions[0]
        target = self._target(prediction, first.target, first.against, METHODS[first.method].class_agnostic)
        if first.detail == "grid":
            moved = []
        elif moved is None:
            moved = [self.predict(upload, explained=True)[0] for upload in self.moved_uploads(prediction)]
        subjects = [self.subject(one, target, first.against) for one in (prediction, *moved)]
        return explain(subjects, [replace(question, target=target) for question in questions])

    def moved_uploads(self, prediction: Prediction) -> list[Upload]:
        """The picture moved by less than a cell in several ways: what fine detail takes one more pass each of."""
        upload, grid = prediction.upload, finest_grid(present for _, present in prediction.maps.items())
        return [replace(upload, image=image) for image in moved_views(upload.image, grid)]

    def check_gradcam(self, question: Question) -> None:
        """Refuse what `gradcam` cannot be asked, before anything is computed. Raises BadParameter and NotOffered."""
        question.check(self.views, self._classes)

    def branch_values(self, prediction: Prediction, target: str | None, against: str | None = None) -> BranchValues:
        """What each branch is worth for `target` (the answer's label if None): its Shapley value, in logits.

        Raises BadParameter and ModelGone.
        """
        target = self._target(prediction, target, against)
        return shapley_values(self.subject(prediction, target, against))

    def attention(
        self,
        prediction: Prediction,
        query: int | None,
        head: int | None,
        method: AttentionMethod = "raw",
        target: str | None = None,
        against: str | None = None,
        layer: Layer = "cross",
    ) -> Explanation:
        """Where the Swin's tokens look: one query token or their mean, one head or their mean.

        In the `cross` layer they look in the CNN's map; in the last `swin` layer at each other, within their window.
        With `method` gradient, where that speaks for `target` (the answer's label if None), if `against` is given
        rather than for that class. Raises BadParameter, NotOffered where the model has no such layer, and ModelGone.
        """
        self.check_attention(method, target, against, layer, query)
        if layer == "swin":
            return self._swin_attention(prediction, query, head)
        target = self._target(prediction, target, against, class_agnostic=method == "raw")
        maps = FeatureMaps(**{branch: present[None] for branch, present in self._maps(prediction).items()})
        assert maps.cnn is not None and maps.swin is not None
        found = self.engine.explain(maps, target_weights(self._classes, target, against)[None])
        assert found.attention is not None and found.attention_gradient is not None
        weights, units = found.attention[0], "attention weight"
        note = "Attention is class-agnostic: it shows where the model looks, not what speaks for a class."
        if method == "gradient":
            weights, units = attention_times_gradient(weights, found.attention_gradient[0]), "logit"
            note = "Attention × gradient: where a larger weight would speak against the class, the map is 0."
        name = "attention" if method == "raw" else "attention_times_gradient"
        heatmap = attention_map(weights, maps.cnn.shape[2:], query, head)
        whole = on_grids(weights, maps.swin.shape[2:], maps.cnn.shape[2:])
        return Explanation(heatmap, name, units, None, target, {}, (note,), against, attention=whole)

    def _swin_attention(self, prediction: Prediction, query: int | None, head: int | None) -> Explanation:
        swin = self._maps(prediction)["swin"]
        weights = self.engine.tokens(prediction.upload.image, np.zeros_like(swin)).attention
        grid = swin.shape[1:]
        heatmap, whole = attention_map(weights, grid, query, head), on_grids(weights, grid, grid)
        note = "Attention is class-agnostic: it shows what the Swin's last layer looks at, within its windows."
        units = "attention weight"
        return Explanation(heatmap, "swin_attention", units, "swin", None, {}, (note,), attention=whole)

    def tokens(
        self,
        prediction: Prediction,
        token_stage: int | None = None,
        target: str | None = None,
        against: str | None = None,
    ) -> Explanation:
        """How much the Swin's tokens at one stage matter for a class, by the size of gradient × token.

        `token_stage` is the height of the stage's grid, by default the last one's. The backward pass goes through the
        Swin: this costs about two passes through it. Raises BadParameter, NotOffered where the bundle has no graph for
        it, and ModelGone.
        """
        self.check_tokens(token_stage, target, against)
        target = self._target(prediction, target, against)
        gradient = self.subject(prediction, target, against).gradient()["swin"]
        found = self.engine.tokens(prediction.upload.image, gradient).saliency
        heatmap = found[self.engine.token_stages[-1] if token_stage is None else token_stage]
        note = "The size of gradient × token: how much a token matters, not whether it speaks for the class or against."
        return Explanation(heatmap, "token_saliency", "logit", "swin", target, {}, (note,), against)

    def check_tokens(
        self, token_stage: int | None = None, target: str | None = None, against: str | None = None
    ) -> None:
        """Refuse what `tokens` cannot be asked. Raises NotOffered and BadParameter."""
        self._check_has_tokens()
        if token_stage is not None and token_stage not in self.engine.token_stages:
            stages = ", ".join(map(str, self.engine.token_stages))
            raise BadParameter(f"There is no token_stage {token_stage}: choose one of {stages}.")
        check_classes(self._classes, target, against)

    def _check_has_tokens(self) -> None:
        if not self.engine.token_stages:
            raise NotOffered(
                "This bundle does not show the Swin's tokens: its model has no such Swin, or it has no graph for them, "
                "which fusionlens-train compile BUNDLE OUT would make."
            )

    def check_attention(
        self,
        method: AttentionMethod = "raw",
        target: str | None = None,
        against: str | None = None,
        layer: Layer = "cross",
        query: int | None = None,
    ) -> None:
        """Refuse what `attention` cannot be asked. Raises NotOffered without such a layer, and BadParameter.

        Whether there is such a head shows when the attention is there.
        """
        if layer not in LAYERS:
            raise BadParameter(f"Unknown layer {layer!r}: choose one of {', '.join(LAYERS)}.")
        if layer == "swin":
            self._check_has_tokens()
            if method != "raw":
                raise BadParameter("The Swin's own attention is given raw: leave out method.")
        elif not self.has_attention:
            raise NotOffered(f"This model fuses by {self.bundle.manifest.architecture.fusion}, without attention.")
        if method not in ATTENTION_METHODS:
            raise BadParameter(f"Unknown method {method!r}: choose one of {', '.join(ATTENTION_METHODS)}.")
        if method == "raw" and (target or against):
            raise BadParameter("Raw attention is of no class: leave out target and against, or choose method gradient.")
        check_classes(self._classes, target, against)
        _, rows, columns = self.bundle.manifest.map_shapes["swin"]
        check_index("query", query, rows * columns)

    def warm_up(self) -> None:
        """One prediction with its overlay, so that the first caller does not pay for lazy set-up."""
        grey = np.full((*self._input_size, 3), 128, np.uint8)
        prediction, _ = self.predict(self.open(encode_png(grey)))  # here the classifier runs, below the explainer
        explanation = self.gradcam(prediction, Question())
        encode_png(draw_over(prediction, explanation, Style()).picture)

    def _target(
        self, prediction: Prediction, target: str | None, against: str | None, class_agnostic: bool = False
    ) -> str | None:
        """The class to explain: the answer's label where none is named. Raises BadParameter."""
        if target is None and not class_agnostic:
            target = self.answer(prediction).label
        check_classes(self._classes, target, against)
        return target

    def subject(self, prediction: Prediction, target: str | None, against: str | None) -> Subject:
        """What the methods of `app.explain` are given: the picture's maps and the score that is explained.

        Raises ModelGone.
        """
        maps, weights = self._maps(prediction), target_weights(self._classes, target, against)
        reference: Maps = dict(self.bundle.reference.items())
        known = Ends(float(self._reference_logits @ weights), float(prediction.logits @ weights))
        of_answer = against is None and target == self.answer(prediction).label
        gradient = prediction.gradient if of_answer else None
        return Subject(maps, reference, HeadScore(self.engine, weights), known, gradient)

    def _maps(self, prediction: Prediction) -> Maps:
        """Raises ModelGone."""
        if prediction.bundle_sha256 != self.bundle.sha256:
            raise ModelGone("The model that made this prediction is no longer loaded: send the picture again.")
        return dict(widened(prediction.maps).items())
