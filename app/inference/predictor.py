"""Picture to prediction to explanation, for one loaded bundle. Synchronous; safe in several threads."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float16, Float32, UInt8
from PIL import Image

from app.errors import BadParameter, ModelGone, NotOffered
from app.explain.attention import ATTENTION_METHODS, AttentionMethod, attention_map, attention_times_gradient
from app.explain.fusion import Fuse
from app.explain.methods import DEFAULT, METHODS
from app.explain.overlay import Box, Drawing, Style, draw
from app.explain.png import encode_png
from app.explain.shapley import BranchValues, shapley_values
from app.explain.subject import Ends, Maps, Subject
from app.inference.answer import Answer, answer_of, decision_bias
from app.inference.bundle import Bundle
from app.inference.engine import Engine
from app.inference.explanation import Explanation, Question, View, explain
from app.inference.preprocess import Frame, Limits, Needs, decode, prepare
from app.inference.preview import preview
from app.inference.target import HeadScore, check_classes, target_weights
from app.models.feature_maps import BRANCHES, Branch, FeatureMaps


@dataclass(frozen=True)
class Upload:
    """A decoded picture, ready for the model, without the upload's own bytes."""

    width_px: int
    height_px: int
    format: str
    notes: tuple[str, ...]
    image: UInt8[np.ndarray, "h w 3"]
    preview_jpeg: bytes
    frame: Frame  # in the preview


@dataclass(frozen=True)
class Prediction:
    """An answer, and all that later explanations of it need. `maps` has no batch axis.

    `gradient` is that of the answer's own class, where it was computed with the answer.
    """

    bundle_sha256: str
    logits: Float32[np.ndarray, " k"]
    maps: FeatureMaps[Float16[np.ndarray, "c h w"]]
    preview_jpeg: bytes
    frame: Frame
    gradient: Maps | None = None

    @property
    def nbytes(self) -> int:
        """Memory that this takes, near enough for a budget."""
        arrays: list[np.ndarray] = [self.logits, *dict(self.maps.items()).values(), *(self.gradient or {}).values()]
        return sum(int(array.nbytes) for array in arrays) + len(self.preview_jpeg) + 1000


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
        picture = decode(data, self._limits, Needs(self._input_size, self._preview_side_px))
        prepared = prepare(picture, self._input_size)
        shrunk = preview(picture, self._preview_side_px)
        return Upload(
            picture.width_px,
            picture.height_px,
            picture.format,
            picture.notes,
            prepared.image,
            _to_jpeg(shrunk),
            prepared.frame.scaled(shrunk.width / picture.width_px, shrunk.height / picture.height_px),
        )

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
        rounded = {branch: m.astype(np.float16) for branch, m in maps.items()}
        gradients: list[Maps | None] = [None] * len(uploads)
        if explained:
            logits, gradients = self._answered(_widened(rounded))
        else:
            logits = self.engine.classify(_widened(rounded))
        spent_ms = {"trunk": (encoded - began) * 1e3, "head": (time.perf_counter() - encoded) * 1e3}
        predictions = []
        for n, upload in enumerate(uploads):
            kept = FeatureMaps(**{branch: m[n].copy() for branch, m in rounded.items()})
            prediction = Prediction(
                self.bundle.sha256, logits[n], kept, upload.preview_jpeg, upload.frame, gradients[n]
            )
            predictions.append((prediction, spent_ms))
        return predictions

    def _answered(
        self, maps: FeatureMaps[Float32[np.ndarray, "b c h w"]]
    ) -> tuple[Float32[np.ndarray, "b k"], list[Maps | None]]:
        """Logits, and each answer's gradient; None where two classes are so near that rounding may have chosen."""
        found = self.engine.answer(maps, self._bias)
        ranked = np.sort(found.logits + self._bias, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 1e-4 * np.abs(ranked).max(axis=1, where=np.isfinite(ranked), initial=0)
        gradients = {branch: getattr(found, f"{branch}_gradient") for branch, _ in maps.items()}
        return found.logits, [
            {branch: gradient[n] for branch, gradient in gradients.items()} if is_clear else None
            for n, is_clear in enumerate(clear)
        ]

    def answer(self, prediction: Prediction) -> Answer:
        """Calibrated probabilities, and the label that the bundle's decision rule gives."""
        return answer_of(self.bundle.manifest, prediction.logits)

    def gradcam(
        self,
        prediction: Prediction,
        view: View,
        target: str | None,
        method: str,
        against: str | None = None,
        fuse: Fuse | None = None,
    ) -> Explanation:
        """What speaks for `target` (the answer's label if None), in one branch or both together.

        With `against`, what speaks for it rather than for that class. `fuse` is how the branches become one map: by
        default their sum, or where a method's values have no unit the mean of the maps, each scaled to its maximum.
        Raises BadParameter, NotOffered where the model lacks what is asked for, and ModelGone.
        """
        self.check_gradcam(view, target, method, against, fuse)
        target = self._target(prediction, target, against, METHODS[method].class_agnostic)
        return explain(self.subject(prediction, target, against), Question(view, method, target, against, fuse))

    def check_gradcam(
        self,
        view: View,
        target: str | None,
        method: str,
        against: str | None = None,
        fuse: Fuse | None = None,
    ) -> None:
        """Refuse what `gradcam` cannot be asked, before anything is computed. Raises BadParameter and NotOffered."""
        Question(view, method, target, against, fuse).check(self.views, self._classes)

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
    ) -> Explanation:
        """Where the Swin's tokens look in the CNN's map: one query token or their mean, one head or their mean.

        With `method` gradient, where that speaks for `target` (the answer's label if None), if `against` is given
        rather than for that class. Raises BadParameter, NotOffered where the model has no cross-attention, and
        ModelGone.
        """
        self.check_attention(method, target, against)
        target = self._target(prediction, target, against, class_agnostic=method == "raw")
        maps = FeatureMaps(**{branch: present[None] for branch, present in self._maps(prediction).items()})
        found = self.engine.explain(maps, target_weights(self._classes, target, against)[None])
        assert found.attention is not None and found.attention_gradient is not None and maps.cnn is not None
        weights, units = found.attention[0], "attention weight"
        note = "Attention is class-agnostic: it shows where the model looks, not what speaks for a class."
        if method == "gradient":
            weights, units = attention_times_gradient(weights, found.attention_gradient[0]), "logit"
            note = "Attention × gradient: where a larger weight would speak against the class, the map is 0."
        heatmap = attention_map(weights, maps.cnn.shape[2:], query, head)
        name = "attention" if method == "raw" else "attention_times_gradient"
        return Explanation(heatmap, name, units, None, target, {}, (note,), against)

    def check_attention(
        self, method: AttentionMethod = "raw", target: str | None = None, against: str | None = None
    ) -> None:
        """Refuse what `attention` cannot be asked. Raises NotOffered without cross-attention, and BadParameter."""
        if not self.has_attention:
            raise NotOffered(f"This model fuses by {self.bundle.manifest.architecture.fusion}, without attention.")
        if method not in ATTENTION_METHODS:
            raise BadParameter(f"Unknown method {method!r}: choose one of {', '.join(ATTENTION_METHODS)}.")
        if method == "raw" and (target or against):
            raise BadParameter("Raw attention is of no class: leave out target and against, or choose method gradient.")
        check_classes(self._classes, target, against)

    def draw(self, prediction: Prediction, explanation: Explanation, style: Style) -> Drawing:
        """The explanation over the picture, in the picture's own frame."""
        frame = prediction.frame
        seen = Box(frame.left_px, frame.top_px, frame.width_px, frame.height_px)
        return draw(_from_jpeg(prediction.preview_jpeg), explanation.heatmap, seen, style)

    def warm_up(self) -> None:
        """One prediction with its overlay, so that the first caller does not pay for lazy set-up."""
        grey = np.full((*self._input_size, 3), 128, np.uint8)
        prediction, _ = self.predict(self.open(encode_png(grey)))  # the explanation then runs the other graph
        explanation = self.gradcam(prediction, "fusion", None, DEFAULT)
        encode_png(self.draw(prediction, explanation, Style()).picture)

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
        return {branch: feature_map.astype(np.float32) for branch, feature_map in prediction.maps.items()}


def _widened(maps: Mapping[Branch, Float16[np.ndarray, "b c h w"]]) -> FeatureMaps[Float32[np.ndarray, "b c h w"]]:
    return FeatureMaps(**{branch: feature_map.astype(np.float32) for branch, feature_map in maps.items()})


def _to_jpeg(rgb: Image.Image) -> bytes:
    data = io.BytesIO()
    # 4:4:4 and a high quality: the overlay's colours stand on this picture
    rgb.save(data, "JPEG", quality=92, subsampling="4:4:4")
    return data.getvalue()


def _from_jpeg(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=["JPEG"])
