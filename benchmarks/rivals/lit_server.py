"""LitServe with the same model: bare, or with pytorch-grad-cam.

python -m benchmarks.rivals.lit_server BUNDLE --port P --answer bare|gradcam --workers W --threads T --batch B

Written after LitServe's documentation (`LitAPI` with `setup`, `decode_request`, `predict`, `encode_response`) and its
own comparison with FastAPI (tests/parity_fastapi), which on a CPU uses 2 workers and batches of 8.
"""

import argparse
from pathlib import Path
from typing import Any

import litserve
import torch
from fastapi import Request
from torch import Tensor

from benchmarks.models import torch_model
from benchmarks.rivals.grad_cam import Explainer
from benchmarks.rivals.pictures import read_tensor

BATCH_TIMEOUT_S = 0.01


class Bare(litserve.LitAPI):  # type: ignore[misc]
    """Probabilities alone, eager torch."""

    def __init__(self, bundle: Path, threads: int, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=BATCH_TIMEOUT_S if batch > 1 else 0.0)
        self._bundle, self._threads = bundle, threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self._model = torch_model(self._bundle)

    def decode_request(self, request: Request) -> Tensor:
        form: Any = request  # LitServe has parsed it, whatever the annotation that it wants says
        return read_tensor(form["file"].file.read())

    def predict(self, x: Tensor) -> Tensor:
        batch = x if x.ndim == 4 else x[None]
        with torch.inference_mode():
            probabilities: Tensor = self._model(batch.contiguous(memory_format=torch.channels_last)).softmax(1)
        return probabilities if x.ndim == 4 else probabilities[0]

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        return {"probabilities": output.tolist()}


class Gradcam(Bare):
    """Probabilities and a heatmap of pytorch-grad-cam."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self._explainer = Explainer(self._bundle)

    def predict(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return self._explainer.explain(x, "gradcam")

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return output


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.lit_server")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", choices=("bare", "gradcam"), required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    api = (Bare if args.answer == "bare" else Gradcam)(args.bundle, args.threads, args.batch)
    # Its fast_queue is for hundreds of requests a second; here it would poll a sixth of a core away while idle.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=args.workers, timeout=False)
    server.run(host="127.0.0.1", port=args.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
