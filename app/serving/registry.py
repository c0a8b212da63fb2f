"""The models that are loaded: the one that answers, and for a while those that it replaced."""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import dataclass

import anyio.to_thread

from app.bundles.reader import Bundle
from app.errors import BundleError, EngineError, ModelGone, ReloadRefused, StoreUnavailable
from app.predicting.load import PredictorOptions
from app.serving.service import Service, ServiceOptions
from app.serving.stores.protocol import PredictionStore
from app.telemetry.metrics import Metrics
from app.telemetry.traces import Trace

logger = logging.getLogger("fusionlens.models")


@dataclass(frozen=True)
class RegistryOptions:
    """How bundles are loaded and served, and how long replaced ones stay.

    At most `previous_bundles` replaced ones stay loaded, each for `retire_after_s`: by then the predictions that they
    made have expired.
    """

    predictor: PredictorOptions
    service: ServiceOptions
    previous_bundles: int
    retire_after_s: float


class ModelRegistry:
    """The current service and its predecessors, which share one store.

    Who holds a service finishes on it, whatever is loaded meanwhile.
    """

    def __init__(self, options: RegistryOptions, store: PredictionStore, metrics: Metrics, trace: Trace) -> None:
        self._options, self.store, self._metrics, self._trace = options, store, metrics, trace
        self._services: list[Service] = []  # the current one first
        self._loading = asyncio.Lock()

    @property
    def services(self) -> tuple[Service, ...]:
        """All that have a model in memory, the current one first; none before `load`."""
        return tuple(self._services)

    @property
    def current(self) -> Service:
        """What answers new requests, after `load`."""
        return self._services[0]

    def load(self) -> None:
        """Load what the settings name, verified and warm. Raises BundleError and EngineError."""
        self._make_current(self._make_service(self._read()))

    async def probe_store(self) -> bool:
        """Whether the store was ever reached; it is tried if not."""
        try:
            await self.store.check()
        except StoreUnavailable as error:
            logger.warning("Not ready: %s", error)
            return False
        return True

    def service_of(self, bundle_sha256: str) -> Service:
        """The service whose model made a prediction. Raises ModelGone."""
        for service in self._services:
            if service.predictor.bundle.sha256 == bundle_sha256:
                return service
        raise ModelGone("The model that made this prediction is no longer loaded: send the picture again.")

    async def forget(self, prediction_id: str, owner: str) -> None:
        """Forget a prediction and all answers about it. Raises what `PredictionStore.forget` raises."""
        await self.store.forget(prediction_id, owner)
        for service in self._services:
            service.explanation_cache.forget(prediction_id)

    async def reload(self) -> bool:
        """Load the bundle's folder beside what is served, then swap. False if it holds what is served already.

        Raises ReloadRefused, and then nothing has changed.
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
            # By then the predictions that it made have expired. The loop must not keep it alive until then.
            asyncio.get_running_loop().call_later(self._options.retire_after_s, self._retire, weakref.ref(replaced))
            self._metrics.reloads.labels("loaded").inc()
            logger.info("The bundle %s is served now", bundle.sha256)
            return True

    def _read(self) -> Bundle:
        return self._options.predictor.read_bundle()

    def _make_service(self, bundle: Bundle) -> Service:
        predictor = self._options.predictor.make_predictor(bundle)
        predictor.warm_up()
        return Service(predictor, self.store, self._options.service, self._metrics, self._trace)

    def _make_current(self, service: Service) -> None:
        self._services = [service, *self._services][: 1 + self._options.previous_bundles]
        predictor = service.predictor
        manifest = predictor.bundle.manifest
        self._metrics.set_model(manifest.name, manifest.version, predictor.bundle.sha256, predictor.engine_version)

    def _retire(self, replaced: weakref.ref[Service]) -> None:
        self._services = [kept for kept in self._services if kept is not replaced()]
