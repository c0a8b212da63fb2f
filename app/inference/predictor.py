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
    """An answer, and all that later explanations of it need. `maps` has no batch axis."""

    bundle_sha256: str
    logits: Float32[np.ndarray, " k"]
    maps: FeatureMaps[Float16[np.ndarray, "c h w"]]
    preview_jpeg: bytes
    frame: Frame

    @property
    def nbytes(self) -> int:
        """Memory that this takes, near enough for a budget."""
        return self.logits.nbytes + sum(m.nbytes for _, m in self.maps.items()) + len(self.preview_jpeg) + 1000


@dataclass(frozen=True)
class Answer:
    """Calibrated probabilities, the most likely class first, and the label that the decision rule gives."""

    label: str
    probabilities: dict[str, float]


class Predictor:
    """Answers and explains with one bundle on one engine."""

    def __init__(self, bundle: Bundle, engine: Engine, limits: Limits, preview_side_px: int) -> None:
        self.bundle, self.engine = bundle, engine
        self._limits, self._preview_side_px = limits, preview_side_px
        self._classes = bundle.manifest.classes
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

    def predict(self, upload: Upload) -> tuple[Prediction, dict[str, float]]:
        """The prediction for a picture, and what trunk and head took in ms."""
        return self.predict_batch([upload])[0]

    def predict_batch(self, uploads: Sequence[Upload]) -> list[tuple[Prediction, dict[str, float]]]:
        """`predict` for several pictures in one pass; the times are the pass's."""
        began = time.perf_counter()
        maps = self.engine.encode(np.stack([upload.image for upload in uploads]))
        encoded = time.perf_counter()
        # Rounded before the head, so that the answer and its later explanations rest on the same numbers.
        rounded = {branch: m.astype(np.float16) for branch, m in maps.items()}
        logits = self.engine.classify(_widened(rounded))
        spent_ms = {"trunk": (encoded - began) * 1e3, "head": (time.perf_counter() - encoded) * 1e3}
        predictions = []
        for n, upload in enumerate(uploads):
            kept = FeatureMaps(**{branch: m[n].copy() for branch, m in rounded.items()})
            prediction = Prediction(self.bundle.sha256, logits[n], kept, upload.preview_jpeg, upload.frame)
            predictions.append((prediction, spent_ms))
        return predictions

    def answer(self, prediction: Prediction) -> Answer:
        """Probabilities at the bundle's temperature; its decision threshold, where it has one, gives the label."""
        logits = prediction.logits.astype(np.float64) / self.bundle.manifest.calibration.temperature
        odds = np.exp(logits - logits.max())
        of_class = zip(self._classes, (odds / odds.sum()).tolist(), strict=True)
        probabilities = dict(sorted(of_class, key=lambda pair: -pair[1]))
        label = next(iter(probabilities))
        if (decision := self.bundle.manifest.decision) is not None:
            chosen = probabilities[decision.positive] >= decision.threshold
            label = next(name for name in self._classes if (name == decision.positive) is chosen)
        return Answer(label, probabilities)

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
        prediction, _ = self.predict(self.open(encode_png(grey)))
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
        return Subject(maps, reference, HeadScore(self.engine, weights), known)

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
