"""The section of explanations: a prediction with its heatmap, against pytorch-grad-cam on the same device."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from app.bundles.reader import Bundle
from app.engines.load import load_engine
from app.engines.torch import load_model
from app.pictures.decode import Limits
from app.predicting.prediction import Upload
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from app.shapes import UInt8
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.models import bundles, drawn_picture
from benchmarks.gpu.notes import Notes
from benchmarks.models import CLASS, as_batch, last_cnn_layer
from benchmarks.timing import interleaved

METHOD = "gradcam"  # what pytorch-grad-cam computes too
OURS, FURTHER, THEIRS = "explained prediction", "default method, of a kept prediction", "pytorch-grad-cam"


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Keep the times of every contestant in each round, in ms. They take turns, with the picture decoded before."""
    has_rival = find_spec("pytorch_grad_cam") is not None
    if not has_rival:
        notes.skip("pytorch-grad-cam is not installed, so that nothing is compared with it: pip install grad-cam")
    data, found = drawn_picture(folder), dict[str, object]()
    for name, bundle in bundles(effort, folder).items():
        predictor = Predictor(bundle, load_engine(bundle, "torch", device=device), Limits(), preview_side_px=1024)
        upload = predictor.open(data)
        contestants = _ours(predictor, upload)
        if has_rival:
            contestants[THEIRS] = _theirs(bundle, upload.image, device)
        times = interleaved(contestants, effort.rounds, effort.warmups)
        found[name] = {contestant: [*one.rounds_ms] for contestant, one in times.items()}
        notes.keep("times_ms", found)
    notes.keep("rival", THEIRS)


def _ours(predictor: Predictor, upload: Upload) -> dict[str, Callable[[], object]]:
    """Probabilities with the fused heatmap, and a further explanation of a prediction that was kept."""
    kept, _ = predictor.predict(upload)

    def explained() -> object:
        prediction, _ = predictor.predict(upload, with_gradient=True)
        return predictor.explain_one(prediction, HeatmapRequest(method=METHOD)).heatmap

    return {OURS: explained, FURTHER: lambda: predictor.explain_one(kept, HeatmapRequest()).heatmap}


def _theirs(bundle: Bundle, image: UInt8[np.ndarray, "h w 3"], device: str) -> Callable[[], object]:
    """One map of the CNN's last layer, as its documentation shows it."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = load_model(bundle).requires_grad_(True)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = as_batch(torch.from_numpy(image).permute(2, 0, 1) / 255)
    cam = GradCAM(model=model, target_layers=[last_cnn_layer(model)])
    return lambda: cam(pixels.to(device), [ClassifierOutputTarget(CLASS)])
