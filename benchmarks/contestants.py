"""What is timed: FusionLens in process and over HTTP, and pytorch-grad-cam on the same model and picture."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from app.inference.bundle import read_bundle
from app.inference.predictor import Predictor
from app.inference.preprocess import Limits
from app.inference.torch_engine import TorchEngine, load_model
from training.forward import as_input


def contestants(bundle: Path, picture: bytes, address: str) -> dict[str, Callable[[], object]]:
    """Everything to be timed on one bundle and one picture; `address` is a server of the same bundle."""
    loaded = read_bundle(bundle)
    predictor = Predictor(loaded, TorchEngine(load_model(loaded)), Limits(), preview_side_px=1024)
    upload = predictor.open(picture)
    model = load_model(loaded)
    image = as_input(torch.from_numpy(upload.image[None]).permute(0, 3, 1, 2))

    def forward() -> object:
        with torch.inference_mode():
            return model(image)

    def explained() -> object:
        prediction, _ = predictor.predict(upload)
        return predictor.gradcam(prediction, "fusion", None, "gradcam")

    # As its documentation advises. One target layer, the CNN's last, which is the least work it can be asked for.
    trainable = load_model(loaded).requires_grad_(True)
    assert trainable.cnn is not None
    last_layer = trainable.cnn.bn2
    cam = GradCAM(model=trainable, target_layers=[last_layer])

    client = httpx.Client(base_url=address, timeout=60)
    query = {
        "prediction_id": client.post("/predict", files={"file": picture}).raise_for_status().json()["prediction_id"]
    }

    return {
        "torch forward": forward,
        "pytorch-grad-cam": lambda: cam(image, [ClassifierOutputTarget(1)]),
        "explained prediction": explained,
        "GET /gradcam": lambda: client.get("/gradcam", params=query).raise_for_status().content,
        "POST /predict": lambda: client.post("/predict", files={"file": picture}).raise_for_status(),
    }


@contextmanager
def server(bundle: Path) -> Iterator[str]:
    """A FusionLens server of its own process; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError("the server ended before it was ready")
            try:
                httpx.get(f"{address}/health/ready").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)
