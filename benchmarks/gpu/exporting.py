"""The section of export, on a machine with a GPU: the bundle of the run that the section of resuming has trained."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from app.bundles.manifest import Architecture
from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from benchmarks.cases import description_for_timing
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.engine import FP32, relative_error
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.resuming import RUN
from training.export.export import export, mean_maps, write_bundle
from training.export.graph_errors import has_openvino
from training.loading.forward import predict, prepared_batches, to_engine_batches
from training.runs.run import Run, read_run


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Compare what the run's model, the bundle on the device and the bundle on the CPU answer of val."""
    trained = folder.parent / "resuming" / RUN
    if not (trained / "ema.safetensors").is_file():
        notes.skip("export: the section resuming left no finished run")
        return
    began, run = time.perf_counter(), read_run(trained)
    if has_openvino():
        bundle = export(trained, folder / "bundle", None, "malignant")
    else:
        notes.skip("the graphs of the bundle: OpenVINO is not installed; the rest of export is measured")
        bundle = _without_graphs(run, folder / "bundle", device)
    notes.keep("export_s", time.perf_counter() - began)
    samples, stretch = run.samples_of("val"), run.recipe.stretch
    batches = list(prepared_batches(samples, run.recipe.model.image_size, stretch))
    model = run.finished_model()
    model.half().float()  # as the bundle stores it
    expected = predict(model, batches)
    for place in dict.fromkeys(("cpu", device)):
        engine = load_engine(bundle, "torch", device=place)
        logits = np.concatenate([engine.classify(engine.encode(images)) for images in to_engine_batches(batches)])
        error = relative_error(logits, expected)
        notes.check(f"logits of the bundle on {place}, and of the run's model on the CPU", error, FP32)
    means, there = mean_maps(model, batches), mean_maps(model.to(device), batches)
    error = max(relative_error(there[branch], mean) for branch, mean in means.items())
    notes.check(f"mean maps on {device} and on the CPU", error, FP32)


def _without_graphs(run: Run, out: Path, device: str) -> Bundle:
    """The bundle of a run, with the mean maps computed on the device, and nothing fitted to answers."""
    model = run.finished_model()
    model.half().float()
    batches = list(prepared_batches(run.samples_of("train"), run.recipe.model.image_size, run.recipe.stretch))
    means = mean_maps(model.to(device), batches)
    architecture = Architecture(**run.recipe.model.model_dump(exclude={"image_size"}))
    description = description_for_timing(architecture, run.classes, "drawn pictures")
    write_bundle(model, out, description, means, graphs={}, stretch=run.recipe.stretch)
    return read_bundle(out)
