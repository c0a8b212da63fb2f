"""Picture to prediction to explanation, for one loaded bundle. Synchronous; safe in several threads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Float16, Float32, UInt8

from app.errors import BadParameter, ModelGone, NotOffered
from app.explain.attention import attention_map
from app.explain.cam import METHODS, UNITS, BranchShare, branch_shares, fuse
from app.explain.overlay import Box, Drawing, Style, draw
from app.explain.png import encode_png
from app.inference.bundle import Bundle
from app.inference.engine import Engine, HeadResult
from app.inference.preprocess import Frame, Limits, Needs, decode, prepare
from app.inference.preview import preview
from app.models.feature_maps import BRANCHES, Branch, FeatureMaps

View = Literal["fusion", "cnn", "swin"]


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


@dataclass(frozen=True)
class Explanation:
    """A signed map on the model's grid, and what it means."""

    heatmap: Float32[np.ndarray, "h w"]
    method: str
    units: str
    branch: View | None
    target: str | None
    shares: dict[Branch, BranchShare]
    notes: tuple[str, ...] = ()


class Predictor:
    """Answers and explains with one bundle on one engine."""

    def __init__(self, bundle: Bundle, engine: Engine, limits: Limits, preview_side_px: int) -> None:
        self.bundle, self.engine = bundle, engine
        self._limits, self._preview_side_px = limits, preview_side_px
        self._classes = bundle.manifest.classes
        self._input_size = (bundle.manifest.input.height_px, bundle.manifest.input.width_px)

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
        height, width = shrunk.shape[:2]
        return Upload(
            picture.width_px,
            picture.height_px,
            picture.format,
            picture.notes,
            prepared.image,
            _to_jpeg(shrunk),
            prepared.frame.scaled(width / picture.width_px, height / picture.height_px),
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

    def gradcam(self, prediction: Prediction, view: View, target: str | None, method: str) -> Explanation:
        """What speaks for `target` (the answer's label if None), in one branch or both together.

        Raises BadParameter, NotOffered where the model lacks the branch, and ModelGone.
        """
        self.check_gradcam(view, target, method)
        target = self.answer(prediction).label if target is None else target
        head = self._run_head(prediction, target)
        heatmaps: dict[Branch, Float32[np.ndarray, "h w"]] = {
            branch: METHODS[method](feature_map.astype(np.float32), getattr(head, f"{branch}_gradient")[0])
            for branch, feature_map in prediction.maps.items()
        }
        heatmap = fuse(heatmaps) if view == "fusion" else heatmaps[view]
        return Explanation(heatmap, method, UNITS[method], view, target, branch_shares(heatmaps))

    def check_gradcam(self, view: View, target: str | None, method: str) -> None:
        """Refuse what `gradcam` cannot be asked, before anything is computed. Raises BadParameter and NotOffered."""
        if method not in METHODS:
            raise BadParameter(f"Unknown method {method!r}: choose one of {', '.join(METHODS)}.")
        if view not in self.views:
            raise NotOffered(f"This model has no {view} branch: choose one of {', '.join(self.views)}.")
        if target is not None and target not in self._classes:
            raise BadParameter(f"Unknown class {target!r}: choose one of {', '.join(self._classes)}.")

    def attention(self, prediction: Prediction, query: int | None, head: int | None) -> Explanation:
        """Where the Swin's tokens look in the CNN's map: one query token or their mean, one head or their mean.

        Raises BadParameter, NotOffered where the model has no cross-attention, and ModelGone.
        """
        self.check_attention()
        attention = self._run_head(prediction, self._classes[0]).attention
        assert attention is not None and prediction.maps.cnn is not None
        height, width = prediction.maps.cnn.shape[1:]
        heatmap = attention_map(attention[0], (height, width), query, head)
        note = "Attention is class-agnostic: it shows where the model looks, not what speaks for a class."
        return Explanation(heatmap, "attention", "attention weight", None, None, {}, (note,))

    def check_attention(self) -> None:
        """Refuse where the model has no cross-attention. Raises NotOffered."""
        if not self.has_attention:
            raise NotOffered(f"This model fuses by {self.bundle.manifest.architecture.fusion}, without attention.")

    def draw(self, prediction: Prediction, explanation: Explanation, style: Style) -> Drawing:
        """The explanation over the picture, in the picture's own frame."""
        frame = prediction.frame
        seen = Box(frame.left_px, frame.top_px, frame.width_px, frame.height_px)
        return draw(_from_jpeg(prediction.preview_jpeg), explanation.heatmap, seen, style)

    def warm_up(self) -> None:
        """One prediction with its overlay, so that the first caller does not pay for lazy set-up."""
        grey = np.full((*self._input_size, 3), 128, np.uint8)
        prediction, _ = self.predict(self.open(encode_png(grey)))
        explanation = self.gradcam(prediction, "fusion", None, "gradcam")
        encode_png(self.draw(prediction, explanation, Style()).picture)

    def _run_head(self, prediction: Prediction, target: str) -> HeadResult:
        if prediction.bundle_sha256 != self.bundle.sha256:
            raise ModelGone("The model that made this prediction is no longer loaded: send the picture again.")
        one_hot: Float[np.ndarray, "1 k"] = np.array([[name == target for name in self._classes]], np.float32)
        maps = {branch: feature_map[None] for branch, feature_map in prediction.maps.items()}
        return self.engine.explain(_widened(maps), one_hot)


def _widened(maps: Mapping[Branch, Float16[np.ndarray, "b c h w"]]) -> FeatureMaps[Float32[np.ndarray, "b c h w"]]:
    return FeatureMaps(**{branch: feature_map.astype(np.float32) for branch, feature_map in maps.items()})


def _to_jpeg(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    # 4:4:4 and a high quality: the overlay's colours stand on this picture
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), quality)[1])


def _from_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert rgb is not None  # the service wrote it itself
    return rgb
