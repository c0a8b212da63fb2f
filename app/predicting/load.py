"""Loads a bundle into a predictor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from app.engines.protocol import DeviceKind, EngineKind
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor


@dataclass(frozen=True)
class PredictorOptions:
    """Options for loading one bundle.

    `pinned_sha256` is the digest that the manifest must have, if any. `device` is what the engine runs on. `threads` is
    the number of cores for the model. `cache` is a folder for compiled graphs, if any. `limits` apply to uploads.
    `preview_side_px` is the longest side of the previews that overlays are drawn on.
    """

    bundle: Path
    pinned_sha256: str | None
    engine: EngineKind
    device: DeviceKind
    threads: int
    cache: Path | None
    limits: Limits
    preview_side_px: int

    def read_bundle(self) -> Bundle:
        """Read and verify the bundle. Raises BundleError."""
        return read_bundle(self.bundle, self.pinned_sha256)

    def make_predictor(self, bundle: Bundle) -> Predictor:
        """Load an engine for a verified bundle. Raises BundleError and EngineError."""
        device = None if self.device == "auto" else self.device
        engine = load_engine(bundle, self.engine, self.threads, self.cache, device)
        return Predictor(bundle.without_weights(), engine, self.limits, self.preview_side_px)

    def load_predictor(self) -> Predictor:
        """Read, verify and load the bundle. Raises BundleError and EngineError."""
        return self.make_predictor(self.read_bundle())
