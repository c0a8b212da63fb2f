"""The registry of loaded models: the current one and, for a while, those that it replaced."""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import dataclass

import anyio.to_thread

from app.bundles.reader import Bundle
from app.errors import BundleError, EngineError, ModelGone, ReloadRefused, StoreUnavailable
from app.predicting.load import PredictorOptions
from app.serving.decoders import Decoders
from app.serving.service import Service, ServiceOptions
from app.serving.stores.protocol import PredictionStore
from app.telemetry.metrics import Metrics
from app.telemetry.traces import Trace

logger = logging.getLogger("fusionlens.models")


@dataclass(frozen=True)
class RegistryOptions:
    """Options for loading and serving bundles, and for retiring replaced ones.

    At most `previous_bundles` replaced bundles stay loaded, each for `retire_after_s`. After that time, the predictions
    that they made have expired.
    """

    predictor: PredictorOptions
    service: ServiceOptions
    previous_bundles: int
    retire_after_s: float


class ModelRegistry:
    """The current service and its predecessors, which share one store and the processes that decode pictures.

    A request keeps the service that it started with, even if another bundle is loaded meanwhile.
    """

    def __init__(
        self, options: RegistryOptions, store: PredictionStore, decoders: Decoders, metrics: Metrics, trace: Trace
    ) -> None:
        self._options, self.store, self._metrics, self._trace = options, store, metrics, trace
        self._decoders = decoders
        self._services: list[Service] = []  # the current one first
        self._loading = asyncio.Lock()

    @property
    def services(self) -> tuple[Service, ...]:
        """All services with a loaded model, the current one first. Empty before `load`."""
        return tuple(self._services)

    @property
    def current(self) -> Service:
        """The service that answers new requests. Available after `load`."""
        return self._services[0]

    def load(self) -> None:
        """Load, verify and warm up the bundle, while the decoders start. Raises BundleError and EngineError."""
        self._decoders.launch()
        self._make_current(self._make_service(self._read()))

    async def probe_store(self) -> bool:
        """Whether the store has been reached at least once. Tries to reach it if not, and logs a failure."""
        try:
            await self.store.check()
        except StoreUnavailable as error:
            logger.warning("Not ready: %s", error)
            return False
        return True

    def service_of(self, bundle_sha256: str) -> Service:
        """The service with the model of this bundle, which made a prediction. Raises ModelGone."""
        for service in self._services:
            if service.predictor.bundle.sha256 == bundle_sha256:
                return service
        raise ModelGone("The model that made this prediction is no longer loaded: send the picture again.")

    async def forget(self, prediction_id: str, owner: str) -> None:
        """Delete a prediction and all cached answers about it. Raises what `PredictionStore.forget` raises."""
        await self.store.forget(prediction_id, owner)
        for service in self._services:
            service.explanation_cache.forget(prediction_id)

    async def reload(self) -> bool:
        """Load the bundle from its folder beside the current one, then replace that one.

        Returns False if the folder still holds the current bundle. Raises ReloadRefused if the new bundle cannot be
        used; the current one stays in service then.
        """
        async with self._loading:
            try:
                bundle = await anyio.to_thread.run_sync(self._read)
                if bundle.sha256 == self.current.predictor.bundle.sha256:
                    self._metrics.reloads.labels("unchanged").inc()
                    return False
                service = await anyio.to_thread.run_sync(self._make_service, bundle)
            except (BundleError, EngineError) as error:
                self._metrics.reloads.labels("refused").inc()
                raise ReloadRefused(f"{error}. The model that was loaded before is still served.") from error
            replaced = self.current
            self._make_current(service)
            # Its predictions expire within this time. A weak reference, so that the event loop does not keep it alive.
            asyncio.get_running_loop().call_later(self._options.retire_after_s, self._retire, weakref.ref(replaced))
            self._metrics.reloads.labels("loaded").inc()
            logger.info("The bundle %s is served now", bundle.sha256)
            return True

    def _read(self) -> Bundle:
        return self._options.predictor.read_bundle()

    def _make_service(self, bundle: Bundle) -> Service:
        predictor = self._options.predictor.make_predictor(bundle)
        predictor.warm_up()
        return Service(predictor, self.store, self._decoders, self._options.service, self._metrics, self._trace)

    def _make_current(self, service: Service) -> None:
        self._services = [service, *self._services][: 1 + self._options.previous_bundles]
        predictor = service.predictor
        manifest = predictor.bundle.manifest
        self._metrics.set_model(manifest.name, manifest.version, predictor.bundle.sha256, predictor.engine_version)

    def _retire(self, replaced: weakref.ref[Service]) -> None:
        self._services = [kept for kept in self._services if kept is not replaced()]
