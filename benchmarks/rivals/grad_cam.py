"""pytorch-grad-cam behind a server: probabilities and a 7 × 7 map, the cheapest sensible answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from benchmarks.models import CLASS, as_batch, last_cnn_layer, torch_model

CELL_PX = 32
METHODS: dict[str, type[BaseCAM]] = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
    "eigencam": EigenCAM,
}


class Explainer:
    """One model with its hooks. Not for two threads at once: the hooks keep what the last picture left in them."""

    def __init__(self, bundle: Path) -> None:
        self._model = torch_model(bundle).requires_grad_(True)
        self._cams: dict[str, BaseCAM] = {}

    def explain(self, image: Tensor, method: str) -> dict[str, Any]:
        """A picture `[3, 224, 224]`: one pass gives the logits and the map, which is sampled once a cell."""
        cam = self._hooked(method)
        heatmap = cam(as_batch(image), [ClassifierOutputTarget(CLASS)])[0]
        cells = heatmap[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
        return {"probabilities": cam.outputs.softmax(1)[0].tolist(), "heatmap": cells.tolist()}

    def _hooked(self, method: str) -> BaseCAM:
        """Only one method's hooks are on the model at a time: each would add to the others' work."""
        if method not in self._cams:
            for other in self._cams.values():
                other.activations_and_grads.release()
            self._cams = {method: METHODS[method](model=self._model, target_layers=[last_cnn_layer(self._model)])}
        return self._cams[method]
