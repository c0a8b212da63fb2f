"""Evaluation of a bundle on labelled pictures, with the code that the service runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sklearn
from jaxtyping import Float, Int

from app import __version__
from app.bundles.manifest import Manifest
from app.bundles.reader import read_bundle
from app.drawing.overlay import Legend, Style
from app.drawing.png import encode_png
from app.engines.load import load_engine
from app.errors import FusionLensError
from app.pictures.decode import Limits
from app.predicting.overlays import draw_over
from app.predicting.prediction import Prediction, Upload
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from training.data.samples import DataError, Sample, load_samples, read_samples
from training.evaluation.report import Evaluation, Mistake, as_html
from training.metrics.classification import (
    DecisionRule,
    Estimate,
    Metric,
    answer_metrics,
    bootstrap,
    classification_metrics,
    ranking_metrics,
)
from training.progress import tracked

REPEATS, SEED = 1000, 0
_SHOWN_MISTAKES = 12
_PREVIEW_SIDE_PX = 320


def evaluate(bundle: Path, data: Path, split: str | None, out: Path) -> Evaluation:
    """Evaluate a bundle on one split of a data set, and write `evaluation.json` and `report.html` to `out`.

    If `split` is None, it is `val`, or all pictures if the data has no splits. Raises BundleError, EngineError, and
    DataError if a class of the bundle has no pictures, if pictures have another class, or if one cannot be read.
    """
    read = read_bundle(bundle)
    predictor = Predictor(read, load_engine(read, "auto"), Limits(), _PREVIEW_SIDE_PX)
    samples = samples_of_split(data, split)
    labels = _class_indices(samples, read.manifest.classes)
    out.mkdir(parents=True, exist_ok=True)  # now, so that a folder that cannot be made fails before the long part
    probabilities = _probabilities(predictor, samples)
    paths = tuple(relative_path(sample.path, data) for sample in samples)
    groups = tuple(sample.group or path for sample, path in zip(samples, paths, strict=True))
    rule = _decision_rule(read.manifest)
    estimates, class_estimates = _estimates(probabilities, labels, groups, rule, read.manifest.classes)
    splits = {sample.split for sample in samples}
    evaluation = Evaluation(
        manifest=read.manifest,
        bundle_sha256=read.sha256,
        data=str(data),
        split=splits.pop() if len(splits) == 1 else None,
        paths=paths,
        groups=groups,
        labels=labels,
        probabilities=probabilities,
        rule=rule,
        metrics=estimates,
        class_metrics=class_estimates,
        repeats=REPEATS,
        seed=SEED,
        versions=library_versions(predictor),
    )
    mistakes = _mistakes(predictor, samples, evaluation)
    document = json.dumps(evaluation.document(), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "evaluation.json").write_text(document + "\n", encoding="utf-8")
    (out / "report.html").write_text(as_html(evaluation, mistakes), encoding="utf-8")
    return evaluation


def samples_of_split(data: Path, split: str | None) -> list[Sample]:
    """Return one split's samples of a data set, or of a run's folder with the split that was made for the run.

    If `split` is None, it is `val`, or all samples if the data has no splits. Raises DataError for a missing split.
    """
    table = data / "samples.csv"
    samples = load_samples(table) if table.is_file() else read_samples(data)
    splits = sorted({sample.split for sample in samples if sample.split})
    if split is None and not splits:
        return samples
    if (split := split or "val") not in splits:
        raise DataError(f"{data} has no split {split}: choose --split from {', '.join(splits) or 'none at all'}")
    return [sample for sample in samples if sample.split == split]


def _class_indices(samples: Sequence[Sample], classes: Sequence[str]) -> Int[np.ndarray, " n"]:
    labels = {sample.label for sample in samples}
    if unknown := sorted(labels - set(classes)):
        raise DataError(
            f"the bundle's classes are {', '.join(classes)}, but pictures are labelled {', '.join(unknown)}"
        )
    if missing := [name for name in classes if name not in labels]:
        raise DataError(f"there are no pictures of {', '.join(missing)}: every class of the bundle needs some")
    return np.array([classes.index(sample.label) for sample in samples])


def _decision_rule(manifest: Manifest) -> DecisionRule:
    if manifest.decision is not None:
        return DecisionRule(manifest.classes.index(manifest.decision.positive), manifest.decision.threshold)
    return DecisionRule(positive=1 if len(manifest.classes) == 2 else None)


def open_sample(predictor: Predictor, sample: Sample) -> Upload:
    """Open the sample's picture as the service does. Raises DataError if that is impossible."""
    try:
        return predictor.open(sample.path.read_bytes())
    except FusionLensError as error:
        raise DataError(f"{sample.path}: {error}") from error


def _predict(predictor: Predictor, sample: Sample) -> Prediction:
    return predictor.predict(open_sample(predictor, sample))[0]


def _probabilities(predictor: Predictor, samples: Sequence[Sample]) -> Float[np.ndarray, "n k"]:
    rows = []
    for sample in tracked(samples, "pictures", "pictures", len(samples)):
        probability_of = predictor.answer(_predict(predictor, sample)).probabilities
        rows.append([probability_of[name] for name in predictor.bundle.manifest.classes])
    return np.array(rows)


def _estimates(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Sequence[str],
    rule: DecisionRule,
    classes: Sequence[str],
) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Compute all metrics and, if there is no positive class, also those of each class against the rest."""
    metrics_of: dict[str | None, dict[str, Metric]] = {None: classification_metrics(len(classes), rule)}
    if rule.positive is None:
        for index, name in enumerate(classes):
            metrics_of[name] = ranking_metrics(index) | answer_metrics(index, rule)
    estimates: dict[str | None, dict[str, Estimate]] = {name: {} for name in metrics_of}
    all_metrics = [
        (owner, name, metric) for owner, class_metrics in metrics_of.items() for name, metric in class_metrics.items()
    ]
    try:
        for owner, name, metric in tracked(all_metrics, "intervals", "metrics", len(all_metrics)):
            estimates[owner][name] = bootstrap(metric, probabilities, labels, groups, REPEATS, SEED)
    except ValueError as error:
        raise DataError(str(error)) from error
    return estimates[None], {name: estimates[name] for name in classes if name in estimates}


def _mistakes(predictor: Predictor, samples: Sequence[Sample], evaluation: Evaluation) -> list[Mistake]:
    """Return the wrong answers with the highest probabilities, in falling order, with the evidence for each answer."""
    answers, classes = evaluation.answers, evaluation.manifest.classes
    probability = evaluation.probabilities[np.arange(len(answers)), answers]
    wrong = np.flatnonzero(answers != evaluation.labels)
    mistakes = []
    for index in wrong[np.argsort(-probability[wrong], kind="stable")][:_SHOWN_MISTAKES].tolist():
        prediction, answer = _predict(predictor, samples[index]), classes[answers[index]]
        drawing = draw_over(prediction, predictor.explain_one(prediction, HeatmapRequest(target=answer)), Style())
        mistakes.append(
            Mistake(
                path=evaluation.paths[index],
                group=evaluation.groups[index],
                label=samples[index].label,
                answer=answer,
                probability=float(probability[index]),
                picture_jpeg=prediction.upload.preview_jpeg,
                overlay_png=encode_png(drawing.picture),
                legend=_legend_sentence(drawing.legend),
            )
        )
    return mistakes


def _legend_sentence(legend: Legend) -> str:
    if legend.no_positive_evidence:
        return "No region of the picture supports the answer."
    return f"Yellow is {legend.high:.2g} logits per cell."


def relative_path(path: Path, data: Path) -> str:
    """Return a path relative to the data's folder, so that a document does not depend on where the data is."""
    folder = data if data.is_dir() else data.parent
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def library_versions(predictor: Predictor) -> dict[str, str]:
    """Return the versions of the libraries that compute the metrics."""
    return {
        "fusionlens": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        predictor.engine.name: predictor.engine.version,
    }
