"""The models of the sections, as bundles without graphs, and pictures for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from app.engines.torch import TorchEngine
from app.files import DEMO_BUNDLE
from app.shapes import UInt8
from benchmarks.cases import DEMO, write_picture, write_random_bundle
from benchmarks.gpu.effort import Effort


def bundles(effort: Effort, folder: Path) -> dict[str, Bundle]:
    """The bundles by their names. What is written for them is in `folder`."""
    architecture = effort.architecture
    name = f"{architecture.cnn} with {architecture.swin}, random weights"
    write_random_bundle(folder / "random", architecture, effort.side_px)
    found = {name: read_bundle(folder / "random")}
    return found | ({DEMO: read_bundle(DEMO_BUNDLE)} if effort.has_demo else {})


def torch_engine(bundle: Bundle, device: str) -> TorchEngine:
    """The torch engine of a bundle on a device, as the service loads it."""
    engine = load_engine(bundle, "torch", device=device)
    assert isinstance(engine, TorchEngine)
    return engine


def noise(bundle: Bundle, count: int, seed: int = 0) -> UInt8[np.ndarray, "count h w 3"]:
    """Pictures of coarse noise at the size of a bundle's model, each another one."""
    rng, rule = np.random.default_rng(seed), bundle.manifest.input
    cells = rng.integers(0, 256, (count, -(-rule.height_px // 16), -(-rule.width_px // 16), 3), np.uint8)
    return cells.repeat(16, axis=1).repeat(16, axis=2)[:, : rule.height_px, : rule.width_px]


def drawn_picture(folder: Path) -> bytes:
    """The drawn picture of the other benchmarks, as a JPEG."""
    return write_picture(folder).read_bytes()
