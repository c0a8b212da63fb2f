"""pytorch-grad-cam behind a server: probabilities and a 7 × 7 map, the cheapest sensible answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from benchmarks.models import CLASS, as_batch, last_cnn_layer, torch_model

CELL_PX = 32


class Explainer:
    """One model with its hooks. Not for two threads at once: the hooks keep what the last picture left in them."""

    def __init__(self, bundle: Path) -> None:
        model = torch_model(bundle).requires_grad_(True)
        self._cam = GradCAM(model=model, target_layers=[last_cnn_layer(model)])

    def explain(self, image: Tensor) -> dict[str, Any]:
        """A picture `[3, 224, 224]`: one pass gives the logits and the map, which is sampled once a cell."""
        heatmap = self._cam(as_batch(image), [ClassifierOutputTarget(CLASS)])[0]
        cells = heatmap[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
        return {"probabilities": self._cam.outputs.softmax(1)[0].tolist(), "heatmap": cells.tolist()}
