"""Options for the parts of the service, built from its settings.

The parts do not import the settings themselves: each takes a plain dataclass.
"""

from __future__ import annotations

from app.pictures.decode import Limits
from app.pictures.formats import SIGNATURES
from app.predicting.load import PredictorOptions
from app.serving.decoders import DecoderOptions
from app.serving.registry import RegistryOptions
from app.serving.service import ServiceOptions
from app.settings import Settings


def predictor_options(settings: Settings) -> PredictorOptions:
    """Options for loading one bundle: its folder, its engine, and the limits for uploads."""
    return PredictorOptions(
        bundle=settings.bundle,
        pinned_sha256=settings.bundle_sha256,
        engine=settings.engine,
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


def decoder_options(settings: Settings) -> DecoderOptions:
    """Options for the processes that decode pictures."""
    return DecoderOptions(
        processes=settings.decoders,
        memory_bytes=settings.decoder_max_bytes,
        cpu_s=settings.decoder_cpu_s,
        queue_limit=settings.queue_limit,
    )


def registry_options(settings: Settings) -> RegistryOptions:
    """Options for the registry: how bundles are loaded, served and replaced."""
    service = ServiceOptions(
        deadline_s=settings.deadline_s,
        queue_limit=settings.queue_limit,
        gather_s=settings.gather_ms / 1e3,
        explainers=settings.decoders,
        explanation_cache_bytes=settings.answers_max_bytes,
    )
    return RegistryOptions(
        predictor=predictor_options(settings),
        service=service,
        previous_bundles=settings.previous_bundles,
        retire_after_s=settings.store_ttl_s,
    )
