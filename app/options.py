"""Options for loading and running a model, built from the settings. Those of what serves it are in `app.api.options`.

The parts do not import the settings themselves: each takes a plain dataclass.
"""

from __future__ import annotations

from app.pictures.decode import Limits
from app.pictures.formats import SIGNATURES
from app.predicting.load import PredictorOptions
from app.settings import Settings


def predictor_options(settings: Settings) -> PredictorOptions:
    """Options for loading one bundle: its folder, its engine, and the limits for uploads."""
    return PredictorOptions(
        bundle=settings.bundle,
        pinned_sha256=settings.bundle_sha256,
        engine=settings.engine,
        device=settings.device,
        threads=settings.threads,
        cache=settings.cache,
        limits=Limits(
            settings.max_pixels,
            settings.max_full_pixels,
            settings.max_side_px,
            (*SIGNATURES, *settings.more_formats),
        ),
        preview_side_px=settings.preview_side_px,
    )
