"""A finished run as a bundle: rounded weights, mean maps, calibration, decision threshold, and its figures on val.

What only a person can say (licence, where the data came from, caveats) is read from a card, a small YAML file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from jaxtyping import Float, Int, UInt8
from pydantic import Field, ValidationError
from torch import Tensor

from app.inference.bundle import Bundle, read_bundle
from app.inference.manifest import (
    FORMAT,
    MANIFEST,
    REFERENCE,
    WEIGHTS,
    Architecture,
    Calibration,
    Decision,
    Description,
    InputRule,
    Manifest,
    Metrics,
    Normalization,
)
from app.inference.torch_engine import load_model
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from training.calibration import fit_temperature, mean_nll, softmax, youden_threshold
from training.config import Part, Recipe, load_recipe
from training.data import DataError, Sample, read_samples
from training.loop import as_input, predict, prepared
from training.metrics import auroc


class ExportError(ValueError):
    """A run, a card or a place that no bundle can be made of, and why."""


class Card(Part):
    """What a person says about the bundle. `positive` is the class looked for, of two; by default the last."""

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    positive: str | None = None
    licence: str = Field(min_length=1)
    data: str = Field(min_length=1, description="where the pictures came from, and on what terms")
    notes: tuple[str, ...]


def load_card(path: Path) -> Card:
    """The card in a YAML file. Raises ExportError."""
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ExportError(f"the card {path} cannot be used: {error}") from error


def export(run: Path, data: Path, out: Path, card: Card) -> Bundle:
    """Write the run in the folder `run`, trained on `data`, as a bundle to the folder `out`.

    All is computed with the weights as the bundle stores them: mean maps on train, without augmentation; temperature,
    threshold and figures on val. Raises ExportError, DataError, RecipeError and BundleError.
    """
    _refuse_to_overwrite(out)
    recipe, classes, model = _read_run(run)
    positive = _positive_class(classes, card)
    train, val = read_samples(data, "train"), read_samples(data, "val")
    labels = _labels(val, classes)
    logits = predict(model, prepared(val, recipe.model.image_size))
    calibration, decision, metrics = judge(logits.astype(np.float64), labels, classes, positive)
    description = Description(
        name=card.name,
        version=card.version,
        created=date.today(),
        classes=classes,
        architecture=Architecture(**recipe.model.model_dump(exclude={"image_size"})),
        calibration=calibration,
        decision=decision,
        metrics=metrics,
        licence=card.licence,
        data=card.data,
        notes=card.notes,
        recipe=recipe.model_dump(mode="json"),
    )
    write_bundle(model, out, description, mean_maps(model, prepared(train, recipe.model.image_size)))
    return read_bundle(out)


def write_bundle(model: CNNViTFusion, out: Path, description: Description, reference: FeatureMaps[np.ndarray]) -> None:
    """Write a bundle with the model's weights in fp16 and the mean maps `reference` (`[C, h, w]` each) to `out`.

    The folder appears complete and verified, or not at all. Raises ExportError if `out` exists and is not empty, and
    BundleError if the parts do not fit each other.
    """
    _refuse_to_overwrite(out)
    weights = {name: _stored(tensor) for name, tensor in model.state_dict().items()}
    means: dict[str, np.ndarray] = {
        branch: np.ascontiguousarray(mean, np.float32) for branch, mean in reference.items()
    }
    contents = {WEIGHTS: safetensors.torch.save(weights), REFERENCE: safetensors.numpy.save(means)}
    manifest = _manifest(model, description, {name: hashlib.sha256(d).hexdigest() for name, d in contents.items()})
    fields = {"format": manifest.format, **manifest.model_dump(mode="json")}
    contents[MANIFEST] = (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        load_model(read_bundle(folder))
        folder.rename(out)


def judge(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], classes: Sequence[str], positive: str | None
) -> tuple[Calibration, Decision | None, Metrics]:
    """Temperature, decision threshold (where there is a positive class) and figures, all from val's logits."""
    chosen_on = f"val ({len(labels)} pictures)"
    temperature = fit_temperature(logits, labels)
    scaled = logits / temperature
    probabilities = softmax(scaled)
    values, decision = {"nll": mean_nll(scaled, labels)}, None
    if positive is None:
        aurocs = [auroc(probabilities[:, k], labels == k) for k in range(len(classes))]
        values["auroc_one_vs_rest"] = float(np.mean(aurocs))
        values["accuracy"] = float((probabilities.argmax(axis=1) == labels).mean())
    else:
        index = classes.index(positive)
        truth, probability = labels == index, probabilities[:, index]
        threshold = youden_threshold(probability, truth)
        answer = probability >= threshold
        decision = Decision(positive=positive, threshold=threshold, chosen_on=chosen_on)
        values["auroc"] = auroc(logits[:, index] - logits[:, 1 - index], truth)
        values["accuracy"] = float((answer == truth).mean())
        values["sensitivity"], values["specificity"] = float(answer[truth].mean()), float((~answer[~truth]).mean())
    calibration = Calibration(temperature=temperature, chosen_on=chosen_on)
    return calibration, decision, Metrics(split="val", pictures=len(labels), values=values)


@torch.inference_mode()
def mean_maps(model: CNNViTFusion, images: UInt8[np.ndarray, "n h w 3"], batch: int = 25) -> FeatureMaps[np.ndarray]:
    """The mean of each branch's feature map over all pictures, float32 `[C, h, w]`."""
    model.eval()
    totals: dict[str, Float[np.ndarray, "c h w"]] = {}
    for start in range(0, len(images), batch):
        part = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2)
        for branch, feature_map in model.encode(as_input(part)).items():
            totals[branch] = totals.get(branch, 0) + feature_map.double().sum(dim=0).numpy()
    return FeatureMaps(**{branch: (total / len(images)).astype(np.float32) for branch, total in totals.items()})


def _read_run(run: Path) -> tuple[Recipe, tuple[str, ...], CNNViTFusion]:
    """The run's recipe, its classes, and the model with its averaged weights rounded as a bundle stores them."""
    for name in ("recipe.yaml", "classes.json", "ema.safetensors"):
        if not (run / name).is_file():
            raise ExportError(f"{run} has no {name}: give the folder that a training run wrote")
    recipe = load_recipe(str(run / "recipe.yaml"))
    classes = tuple(json.loads((run / "classes.json").read_text(encoding="utf-8")))
    model = CNNViTFusion(len(classes), **recipe.model.model_dump())
    safetensors.torch.load_model(model, run / "ema.safetensors", strict=True)
    model.half().float()
    return recipe, classes, model.to(memory_format=torch.channels_last)


def _positive_class(classes: Sequence[str], card: Card) -> str | None:
    if len(classes) != 2:
        if card.positive is not None:
            raise ExportError(f"the card names a positive class, but there are {len(classes)} classes: remove it")
        return None
    if card.positive is not None and card.positive not in classes:
        raise ExportError(f"the card's positive class {card.positive!r} is not one of {', '.join(classes)}")
    return card.positive or classes[-1]


def _labels(samples: Sequence[Sample], classes: Sequence[str]) -> Int[np.ndarray, " n"]:
    labels = [sample.label for sample in samples]
    if unlike := sorted(set(labels) ^ set(classes)):
        raise DataError(f"val and the run's classes differ in {', '.join(unlike)}: each class needs pictures in val")
    return np.array([classes.index(label) for label in labels])


def _refuse_to_overwrite(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not empty: choose another folder")


def _stored(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


def _manifest(model: CNNViTFusion, description: Description, files: dict[str, str]) -> Manifest:
    height_px, width_px = model.image_size
    normalization = {
        branch: Normalization(
            mean=tuple(_stored(getattr(model, f"{branch}_mean")).flatten().tolist()),
            std=tuple(_stored(getattr(model, f"{branch}_std")).flatten().tolist()),
        )
        for branch, _ in model.map_shapes.items()
    }
    return Manifest(
        **dict(description),
        format=FORMAT,
        input=InputRule(
            height_px=height_px, width_px=width_px, rule="shortest_side_center_crop", interpolation="bicubic"
        ),
        normalization=normalization,
        map_shapes=dict(model.map_shapes.items()),
        files=files,
    )
