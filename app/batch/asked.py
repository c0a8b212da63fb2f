"""What a job asks of its model: plain values that go to any process, and the model that is loaded for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from app import __version__
from app.batch.job import Job
from app.batch.parts import Parts
from app.batch.refusals import JobRefused
from app.batch.rows import Columns
from app.errors import FusionLensError
from app.pictures.opened import OpenOptions
from app.predicting.load import PredictorOptions
from app.predicting.predictor import Predictor
from app.predicting.request import AcceptedRequest, HeatmapRequest


@dataclass(frozen=True)
class Asked:
    """What is asked of every picture: heatmaps by `methods`, overlays of them, and a prediction set.

    `coverage` is that of the prediction set, by default the bundle's.
    """

    methods: tuple[str, ...]
    overlays: bool
    coverage: float | None


@dataclass(frozen=True)
class Model:
    """A loaded model with what it is asked. `heatmaps` are by method, with the bundle's own in place of `default`."""

    predictor: Predictor
    asked: Asked
    heatmaps: dict[str, AcceptedRequest]

    @property
    def needs_gradient(self) -> bool:
        """Whether the gradient that explains an answer is used."""
        return any(accepted.request.needs_answer_gradient for accepted in self.heatmaps.values())

    @property
    def open_options(self) -> OpenOptions:
        """How pictures are opened. Only overlays need a preview, which takes longer than all else of a picture."""
        return replace(self.predictor.open_options, has_preview=self.asked.overlays)

    def parts(self, job: Job) -> Parts:
        """The part files of a job that this model makes."""
        predictor, manifest = self.predictor, self.predictor.bundle.manifest
        columns = Columns(
            manifest.classes, manifest.trust is not None, tuple(self.heatmaps), has_overlays=self.asked.overlays
        )
        origin = {
            "bundle_sha256": predictor.bundle.sha256,
            "model": f"{manifest.name} {manifest.version}",
            "engine": predictor.engine_version,
            "fusionlens": __version__,
        }
        return Parts(job, columns.schema(), {"fusionlens": json.dumps(origin)})


def loaded(asked: Asked, loading: PredictorOptions) -> Model:
    """Load the model. Raises JobRefused if it cannot be used, or cannot answer what is asked."""
    with _refusing():
        predictor = loading.load_predictor()
        predictor.check_coverage(asked.coverage)
        accepted = [predictor.accept(HeatmapRequest(method=method)) for method in asked.methods]
    by_method = {one.request.method: one for one in accepted if isinstance(one.request, HeatmapRequest)}
    return Model(predictor, asked, by_method)


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a bundle, an engine or a question is wrong use of the command."""
    try:
        yield
    except FusionLensError as error:
        raise JobRefused(str(error)) from error
