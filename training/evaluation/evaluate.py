"""Evaluation of a bundle on labelled pictures, with the code that the service runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import sklearn

from app import __version__
from app.bundles.manifest import Manifest
from app.bundles.reader import Bundle, read_bundle
from app.bundles.texts import appearance, shown
from app.drawing.overlay import Legend, Style
from app.drawing.png import encode_png
from app.engines.load import load_engine
from app.predicting.overlays import draw_over
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from app.shapes import Int
from training.data.limits import TRAINING_LIMITS
from training.data.samples import DataError, DataSet, Sample, read_data_set, refuse_unreadable
from training.evaluation.against import check_comparable, compared
from training.evaluation.answered import answer_all, decision_rule, predict_sample
from training.evaluation.branches import branch_worths
from training.evaluation.html_report import Mistake, as_html
from training.evaluation.metric_values import Pictures, metric_values
from training.evaluation.reliance import reliance
from training.evaluation.report import Evaluation
from training.evaluation.subgroups import MOST_VALUES, columns_of_too_many_values, subgroups
from training.output import write_text
from training.runs.run import kept_samples
from training.spelling import column_key, normalised

REPEATS, SEED = 1000, 0
_SHOWN_MISTAKES = 12
_PREVIEW_SIDE_PX = 320


def evaluate(bundle: Path, data: Path, split: str | None, out: Path, against: Path | None = None) -> Evaluation:
    """Evaluate a bundle on one split of a data set, and write `evaluation.json` and `report.html` to `out`.

    If `split` is None, it is `val` or else `test`, or all pictures if the data has no splits. The data need not have
    pictures of every class: metrics that are then undefined say so. With `against`, another bundle of the same classes
    answers the same pictures, and the metrics are compared. Raises BundleError, EngineError, and DataError if pictures
    have a class that the bundle lacks, if one cannot be read, or if the bundles cannot be compared.
    """
    read, predictor = _opened(bundle)
    rule = decision_rule(read.manifest)
    other = None if against is None else _opened(against)
    if other is not None:
        check_comparable(read.manifest, other[0].manifest)
    data_set = read_split(data, split)
    samples = data_set.samples
    labels = _class_indices(samples, read.manifest.classes)
    out.mkdir(parents=True, exist_ok=True)  # now, so that a folder that cannot be made fails before the long part
    answered = answer_all(predictor, samples)
    probabilities = answered.probabilities
    paths = tuple(relative_path(sample.path, data) for sample in samples)
    groups = tuple(sample.group or path for sample, path in zip(samples, paths, strict=True))
    pictures = Pictures(read.manifest.classes, probabilities, labels, groups)
    values, class_values = metric_values(pictures, rule, REPEATS, SEED)
    answers = rule.answers(probabilities)
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
        metrics=values,
        class_metrics=class_values,
        subgroups=subgroups(samples, pictures, rule, REPEATS, SEED, _sources(read.manifest)),
        branches=branch_worths(answered.parts, pictures, answers, rule, REPEATS, SEED),
        reliance=reliance(answered.assessments, read.manifest.classes, labels, answers != labels),
        against=None if other is None else compared(pictures, rule, *other, samples, REPEATS, SEED),
        repeats=REPEATS,
        seed=SEED,
        versions=library_versions(predictor),
        remarks=(*data_set.remarks, *_rule_remarks(read.manifest), *_column_remarks(samples, read.manifest)),
    )
    mistakes = _mistakes(predictor, samples, evaluation)
    document = json.dumps(evaluation.document(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(out / "evaluation.json", document + "\n")
    write_text(out / "report.html", as_html(evaluation, mistakes))
    return evaluation


def _opened(path: Path) -> tuple[Bundle, Predictor]:
    bundle = read_bundle(path)
    return bundle, Predictor(bundle, load_engine(bundle, "auto"), TRAINING_LIMITS, _PREVIEW_SIDE_PX)


def read_split(data: Path, split: str | None) -> DataSet:
    """Return one split of a data set, or of a run's folder with the split that was made for the run.

    Pictures that the run skipped are left out. If `split` is None, it is `val` or else `test`, or all samples if the
    data has no splits. Raises DataError for a missing split and for files that are no pictures, and RunError.
    """
    data_set = DataSet(kept_samples(data)) if (data / "samples.csv").is_file() else read_data_set(data)
    splits = sorted({sample.split for sample in data_set.samples if sample.split})
    if split is None and splits:
        split = "test" if splits == ["test"] else "val"
    chosen = tuple(sample for sample in data_set.samples if split in (None, sample.split))
    if split is not None and split not in splits:
        raise DataError(f"{data} has no split {split}: choose --split from {', '.join(splits) or 'none at all'}")
    if not chosen:
        raise DataError(
            f"{data} has no pictures: {'; '.join(data_set.remarks) or 'give a folder or a table with some'}"
        )
    refuse_unreadable(chosen)
    return replace(data_set, samples=chosen)


def samples_of_split(data: Path, split: str | None) -> list[Sample]:
    """Return the samples of one split: see `read_split`."""
    return list(read_split(data, split).samples)


def _class_indices(samples: Sequence[Sample], classes: Sequence[str]) -> Int[np.ndarray, " n"]:
    index_of = {normalised(name): index for index, name in enumerate(classes)}
    labels = [normalised(sample.label) for sample in samples]
    if unknown := sorted({*labels} - index_of.keys()):
        like = [name for name in classes if appearance(name) in map(appearance, unknown)]
        raise DataError(
            f"the bundle's classes are {', '.join(classes)}, but pictures are labelled "
            f"{', '.join(map(ascii if like else shown, unknown))}"
            + (f", which looks like {like[0]} and is another name" if like else "")
        )
    return np.array([index_of[label] for label in labels])


def _rule_remarks(manifest: Manifest) -> tuple[str, ...]:
    if manifest.decision is not None or len(manifest.classes) != 2:
        return ()
    return (f"the bundle names no positive class: metrics are those of its last class, {manifest.classes[1]}",)


def _sources(manifest: Manifest) -> frozenset[str]:
    """The columns of the table that the recipe names as the pictures' sources."""
    balance, left_out = manifest.recipe.get("balance"), manifest.recipe.get("leave_out")
    names = [balance.get("within")] if isinstance(balance, dict) else []
    names += left_out if isinstance(left_out, dict) else []
    return frozenset(column_key(name) for name in names if isinstance(name, str))


def _column_remarks(samples: Sequence[Sample], manifest: Manifest) -> list[str]:
    columns = columns_of_too_many_values(samples, _sources(manifest))
    return [f"no subgroups by {', '.join(columns)}: more than {MOST_VALUES} values"] if columns else []


def _mistakes(predictor: Predictor, samples: Sequence[Sample], evaluation: Evaluation) -> list[Mistake]:
    """Return the wrong answers with the highest probabilities, in falling order, with the evidence for each answer."""
    answers, classes = evaluation.answers, evaluation.manifest.classes
    probability = evaluation.probabilities[np.arange(len(answers)), answers]
    wrong = np.flatnonzero(answers != evaluation.labels)
    mistakes = []
    for index in wrong[np.argsort(-probability[wrong], kind="stable")][:_SHOWN_MISTAKES].tolist():
        prediction, answer = predict_sample(predictor, samples[index]), classes[answers[index]]
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
