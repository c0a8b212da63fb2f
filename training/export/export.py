"""Export of a finished run as a bundle: fp16 weights, mean maps, calibration, threshold, metrics on val, trust part.

What only a person can state, such as the licence, the source of the data and caveats, is read from a card, a small YAML
file. A bundle that is exported without a card says so in its notes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from app.bundles.graph_names import TOKENS
from app.bundles.manifest import (
    BASELINE,
    FORMAT,
    MANIFEST,
    WEIGHTS,
    Architecture,
    CasesChoice,
    Description,
    ExplanationChoice,
    InputRule,
    Manifest,
    Normalization,
)
from app.bundles.reader import Bundle, read_bundle
from app.bundles.texts import Prose, Text
from app.cases.stored import cases_of
from app.engines.load import load_engine
from app.engines.torch import device_of, load_model
from app.explain.methods import METHODS
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps, weights_of
from app.models.transformer_tokens import transformer_tokens
from app.pictures.bit_depth import Stretch
from app.shapes import Float, UInt8
from app.trust.fitted import trust_of
from training.data.samples import Sample
from training.errors import TrainingProblem
from training.export.graph_errors import WITHOUT_TOKENS, require_openvino
from training.loading.forward import predict, prepared_batches, to_engine_batches, to_model_input
from training.output import naming, refuse_to_overwrite
from training.recipe.config import Recipe, StrictModel
from training.recipe.load import fault_sentence
from training.recipe.plain_yaml import parse_yaml
from training.runs.contents import changed_files, content_marks, read_marks, refuse_changed
from training.runs.run import Run, read_run
from training.runs.torch_files import not_finite_tensor
from training.spelling import normalised
from training.trust.answers import Answers, calibrate, metrics_of
from training.trust.fit import TrustProblem, calibration_split, fit_trust
from training.trust.write import NO_TRUST, write_with_trust

CHECKED_PICTURES = 25  # number of pictures on which a new bundle is compared with its model
MAX_LOGIT_ERROR = 1e-4  # largest difference of a logit that rounding explains
# The note of a bundle whose run had `keep: best`.
CHOSEN_ON_VAL = (
    "The weights are those of the epoch with the best AUROC on val, so that the figures on val are better than those "
    "on other pictures."
)


class ExportError(TrainingProblem, ValueError):
    """A bundle that cannot be written. The message says why."""


class Card(StrictModel):
    """A person's statements about the bundle. `positive` is the positive class of two, the one that is looked for."""

    name: Text
    version: Text
    positive: str | None = None
    licence: Prose
    data: Prose = Field(description="source and terms of the pictures")
    notes: tuple[Prose, ...]
    explanation: ExplanationChoice | None = Field(None, description="the default explanation method, as measured")
    cases: CasesChoice | None = Field(
        CasesChoice(), description="what the index of similar cases may show of training pictures; null for no index"
    )

    @field_validator("explanation")
    @classmethod
    def _is_a_method(cls, choice: ExplanationChoice | None) -> ExplanationChoice | None:
        methods = [name for name, method in METHODS.items() if not method.class_agnostic]
        if choice is not None and choice.default_method not in methods:
            raise ValueError(f"no method of a class is {choice.default_method!r}: choose one of {', '.join(methods)}")
        return choice


def load_card(path: Path) -> Card:
    """Read a card from a YAML file. Raises ExportError."""
    try:
        return Card.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        sentences = "; ".join(fault_sentence(entry, Card) for entry in error.errors(include_url=False))
        raise ExportError(f"the card {path} cannot be used: {sentences}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExportError(f"the card {path} cannot be used: {error}") from error


def export(folder: Path, out: Path, card: Card | None, positive: str | None = None) -> Bundle:
    """Write the finished run in `folder` as a bundle to the folder `out`, and read it back.

    `positive` is the positive class of two, which must be named here or in the card.
    Everything is computed with the weights rounded to fp16, as the bundle stores them: the mean maps on train without
    augmentation, temperature and threshold on the split calibration if it has pictures of every class, or else on val,
    and metrics on val. The bundle's logits are then compared with the model's on pictures of val. The trust part is
    fitted to train and calibration, or else val; if that is too small, a note says so. With it comes an index of the
    training pictures, unless the card refuses one.

    Raises ExportError, OutputError, GraphError, RunError, DataError, RecipeError and BundleError.
    """
    refuse_to_overwrite(out)
    require_openvino()
    from training.export.graphs import write_graphs  # imported here because OpenVINO may be missing where one trains

    run = read_run(folder)
    if run.contents.is_file():
        refuse_changed(changed_files(read_marks(run.contents), content_marks(run.used_pictures)), run.contents)
    recipe, classes, size = run.recipe, run.classes, run.recipe.model.image_size
    card = card or _placeholder_card(recipe.name)
    positive = _positive_class(classes, card.positive, positive)
    model = run.finished_model()
    model.half().float()
    _refuse_not_finite(model)
    split = calibration_split(run.samples)
    # A part without pictures of a class has no threshold to offer; that it is too small for trust becomes a note.
    fitted_to = split if {*run.labels_of(split)} == {*range(len(classes))} else "val"
    answers = {name: _answers(model, run, name) for name in ("val", fitted_to)}
    logits = answers["val"].logits
    checked = prepared_batches(run.samples_of("val")[:CHECKED_PICTURES], size, recipe.stretch)
    lacking: list[str] = []
    graphs = write_graphs(model, to_engine_batches(checked), lacking.append)
    try:
        calibration, decision = calibrate(answers[fitted_to], classes, positive)
    except ValueError as error:
        raise ExportError(
            f"the model of {folder} tells no classes apart on {fitted_to}: {error}; train anew"
        ) from error
    description = Description(
        name=card.name,
        version=card.version,
        created=date.today(),
        classes=classes,
        architecture=Architecture(**recipe.model.model_dump(exclude={"image_size"})),
        calibration=calibration,
        decision=decision,
        metrics=metrics_of(answers["val"], classes, calibration, decision),
        licence=card.licence,
        data=card.data,
        notes=(*card.notes, *lacking, *([CHOSEN_ON_VAL] if recipe.keep == "best" else [])),
        recipe=_public_recipe(recipe),
        explanation=card.explanation,
    )
    means = mean_maps(model, prepared_batches(run.samples_of("train"), size, recipe.stretch))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        plain = Path(temporary) / "plain"
        write_bundle(model, plain, description, means, graphs, recipe.stretch)
        bundle = read_bundle(plain)
        _check_logits(bundle, run.samples_of("val")[:CHECKED_PICTURES], logits[:CHECKED_PICTURES])
        samples = run.samples_of("train"), run.samples_of(split)
        try:
            fit = fit_trust(bundle, load_engine(bundle, "auto"), *samples, split, None, card.cases)
            return write_with_trust(bundle, out, fit.section, fit.fitted, fit.cases)
        except TrustProblem as error:
            description = description.model_copy(update={"notes": (*description.notes, f"{NO_TRUST}{error}")})
    write_bundle(model, out, description, means, graphs, recipe.stretch)
    return read_bundle(out)


def compile_bundle(path: Path, out: Path, samples: Sequence[Sample]) -> Bundle:
    """Copy the bundle in `path` to the folder `out` with new graphs; a trust part stays as it is.

    The graphs are checked on noise and on the pictures of `samples`. Raises ExportError, GraphError, DataError and
    BundleError.
    """
    refuse_to_overwrite(out)
    require_openvino()
    from training.export.graphs import write_graphs  # imported here because OpenVINO may be missing where one trains

    bundle = read_bundle(path)
    model = load_model(bundle)
    size = (bundle.manifest.input.height_px, bundle.manifest.input.width_px)
    stretch, lacking = bundle.manifest.input.stretch, list[str]()
    graphs = write_graphs(model, to_engine_batches(prepared_batches(samples, size, stretch)), lacking.append)
    fields = {name: getattr(bundle.manifest, name) for name in Description.model_fields}
    # A bundle that has been compiled before may have such a note, which another version has made untrue.
    notes = [note for note in fields["notes"] if not note.startswith(WITHOUT_TOKENS)]
    description = Description(**(fields | {"notes": (*notes, *lacking)}))
    fitted, section = trust_of(bundle), bundle.manifest.trust
    if fitted is None or section is None:
        write_bundle(model, out, description, bundle.baseline, graphs, stretch)
        return read_bundle(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        plain = Path(temporary) / "plain"
        write_bundle(model, plain, description, bundle.baseline, graphs, stretch)
        return write_with_trust(read_bundle(plain), out, section, fitted, cases_of(bundle))


def write_bundle(
    model: CNNViTFusion,
    out: Path,
    description: Description,
    baseline: FeatureMaps[np.ndarray],
    graphs: Mapping[str, bytes],
    stretch: Stretch,
) -> None:
    """Write a bundle with the model's weights in fp16 and the mean maps `baseline` (`[C, h, w]` each) to `out`.

    `graphs` has the files that `write_graphs` made from the model. Without graphs, the bundle can be served with torch
    only. `stretch` is the rule for grey values that the model was trained with. The folder appears complete and
    verified, or not at all.

    Raises OutputError if `out` exists and is not empty, and BundleError if the parts do not fit each other.
    """
    refuse_to_overwrite(out)
    weights = {name: _to_stored(tensor) for name, tensor in model.state_dict().items()}
    means: dict[str, np.ndarray] = {branch: np.ascontiguousarray(mean, np.float32) for branch, mean in baseline.items()}
    contents = {WEIGHTS: safetensors.torch.save(weights), BASELINE: safetensors.numpy.save(means), **graphs}
    manifest = _manifest(
        model, description, {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}, stretch
    )
    fields = {"format": manifest.format, **manifest.model_dump(mode="json")}
    contents[MANIFEST] = (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        for name, content in contents.items():
            with naming(out / name):
                (folder / name).write_bytes(content)
        load_model(read_bundle(folder))
        folder.rename(out)


def _answers(model: CNNViTFusion, run: Run, split: str) -> Answers:
    batches = prepared_batches(run.samples_of(split), run.recipe.model.image_size, run.recipe.stretch)
    logits = predict(model, batches)
    if not np.isfinite(logits).all():
        raise ExportError(
            f"the model of {run.folder} has logits on {split} that are not finite: it has diverged; train anew"
        )
    return Answers(split, logits.astype(np.float64), np.array(run.labels_of(split)))


@torch.inference_mode()
def mean_maps(model: CNNViTFusion, batches: Iterable[UInt8[Tensor, "b 3 h w"]]) -> FeatureMaps[np.ndarray]:
    """Return the mean of each branch's feature map over all pictures, float32 `[C, h, w]`.

    The model is in eval mode, on any device.
    """
    totals = FeatureMaps[Float[np.ndarray, "c h w"]]()
    pictures = 0
    for batch in batches:
        pictures += len(batch)
        for branch, feature_map in model.encode(to_model_input(batch.to(device_of(model)))).items():
            totals[branch] = totals.get(branch, 0) + feature_map.cpu().double().sum(dim=0).numpy()
    return totals.map(lambda total: (total / pictures).astype(np.float32))


def _check_logits(bundle: Bundle, samples: Sequence[Sample], logits: Float[np.ndarray, "n k"]) -> None:
    """Compare the bundle's logits on the service's torch engine with the model's. Raises ExportError."""
    engine = load_engine(bundle, "torch", device="cpu")
    size = (bundle.manifest.input.height_px, bundle.manifest.input.width_px)
    batches = prepared_batches(samples, size, bundle.manifest.input.stretch)
    images = np.concatenate(list(to_engine_batches(batches)))
    served = engine.classify(engine.encode(images))
    if (error := float(np.abs(served - logits).max())) > MAX_LOGIT_ERROR:
        raise ExportError(
            f"the bundle's logits differ from the run's by {error:.1e}, "
            f"more than rounding explains ({MAX_LOGIT_ERROR:.0e})"
        )


def _refuse_not_finite(model: CNNViTFusion) -> None:
    """Raises ExportError for weights that fp16 cannot hold."""
    if (broken := not_finite_tensor(model.state_dict())) is not None:
        raise ExportError(
            f"{broken} has values beyond those of fp16 (65,504), in which a bundle stores its weights: train with "
            "lower rates or more weight_decay"
        )


def _public_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain data in which paths have no folder, since folders are private."""

    def without_folders(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_folders(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [without_folders(each) for each in value]
        return value.name if isinstance(value, Path) else value

    fields: dict[str, Any] = without_folders(recipe.model_dump())
    return fields


def _placeholder_card(name: str) -> Card:
    note = "Exported without a card: the purpose of this model is not stated."
    return Card(name=name, version="1", licence="not stated", data="not stated", notes=(note,))


def _positive_class(classes: Sequence[str], by_card: str | None, by_option: str | None) -> str | None:
    """Return the positive class of two, or None for more classes. It is never guessed."""
    named = {normalised(name) for name in (by_card, by_option) if name is not None}
    if len(classes) != 2:
        if named:
            raise ExportError(f"a positive class is named, but there are {len(classes)} classes: remove it")
        return None
    if not named:
        raise ExportError(
            f"the classes are {classes[0]} and {classes[1]}: name the positive one, which the model looks for, with "
            f"--positive, or with positive in the card"
        )
    if len(named) > 1:
        raise ExportError(f"the card names the positive class {by_card}, and --positive {by_option}: name one of them")
    (name,) = named
    if (found := next((each for each in classes if normalised(each) == name), None)) is None:
        raise ExportError(f"the positive class {name!r} is not one of {', '.join(classes)}")
    return found


def _to_stored(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


def _manifest(model: CNNViTFusion, description: Description, files: dict[str, str], stretch: Stretch) -> Manifest:
    height_px, width_px = model.image_size
    normalization = {
        branch: Normalization(
            mean=tuple(_to_stored(getattr(model, f"{weights_of(branch)}_mean")).flatten().tolist()),
            std=tuple(_to_stored(getattr(model, f"{weights_of(branch)}_std")).flatten().tolist()),
        )
        for branch in model.map_shapes
    }
    tokens = transformer_tokens(model) if TOKENS in files else None
    return Manifest(
        **dict(description),
        format=FORMAT,
        input=InputRule(
            height_px=height_px,
            width_px=width_px,
            rule="shortest_side_center_crop",
            interpolation="bicubic",
            stretch=stretch,
        ),
        normalization=normalization,
        map_shapes=dict(model.map_shapes),
        token_stages=() if tokens is None else tokens.heights,
        token_attention=tokens is not None and tokens.has_attention,
        files=files,
    )
