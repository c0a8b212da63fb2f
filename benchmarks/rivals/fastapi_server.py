"""FastAPI and pytorch-grad-cam put together as one would in an afternoon.

python -m benchmarks.rivals.fastapi_server BUNDLE --port P
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, File

from benchmarks.rivals.grad_cam import Explainer
from benchmarks.rivals.pictures import read_tensor


def create_app(bundle: Path) -> FastAPI:
    """`POST /predict` in FastAPI's thread pool: pictures are decoded side by side, and explained one by one."""
    app, explainer, turn = FastAPI(), Explainer(bundle), threading.Lock()

    @app.post("/predict")
    def predict(file: bytes = File(), method: str = "gradcam") -> dict[str, Any]:
        image = read_tensor(file)
        with turn:
            return explainer.explain(image, method)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.fastapi_server")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvicorn.run(create_app(args.bundle), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
