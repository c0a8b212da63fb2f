"""Options for the parts that serve a model, built from the settings."""

from __future__ import annotations

from app.options import predictor_options
from app.serving.decoders import DecoderOptions
from app.serving.registry import RegistryOptions
from app.serving.service import ServiceOptions
from app.settings import Settings


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
