"""The data randomisation test: do heatmaps change if the head is trained on shuffled labels?

The test is from Adebayo et al., "Sanity Checks for Saliency Maps", 2018. Here the bundle's trunk is kept, and only
heads are trained, on stored feature maps. A head that memorises shuffled labels learns nothing about the classes, so
its heatmaps should differ from those of a head trained on the true labels.

The control is a second head trained on the true labels. It has the same seed as the head of shuffled labels, and
another one than the first head. Heads with the same initial weights keep some of them, so both are compared with the
first head on equal terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from app.engines.protocol import Engine
from app.engines.torch import TorchEngine
from app.explain.attribution import AttributionInput, Maps
from app.explain.merge import Heatmap
from app.explain.methods import METHODS, merge_rule_of, merged
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps, batched, to_float16, to_float32
from app.predicting.target import HeadScore
from app.progress import tracked
from app.shapes import Float, Int
from training.data.samples import DataError, Sample, read_samples
from training.heatmaps.faithfulness import correlation
from training.heatmaps.shuffled_report import SCORES, HeadMetrics, ShuffledLabelsResult, VariantRow, estimates
from training.loading.forward import prepared_batches, to_engine_batches
from training.loop.optim import warmup_cosine
from training.metrics.classification import DecisionRule, classification_metrics
from training.runs.run import kept_samples

DEFAULT_EPOCHS, DEFAULT_PICTURES = 20, 50
_RATE, _WEIGHT_DECAY, _BATCH, _WARMUP_SHARE = 5e-4, 0.02, 32, 0.1

Variant = tuple[str, str]  # the method, and the view: cnn, swin, or fusion by the method's default merge rule


@dataclass(frozen=True)
class EncodedSplit:
    """The pictures of one split: their feature maps in float16, their class indices and their groups."""

    maps: FeatureMaps[np.ndarray]
    labels: Int[np.ndarray, " n"]
    groups: tuple[str, ...]


def compare_shuffled_labels(
    bundle: Path, data: Path, epochs: int, picture_count: int, seed: int
) -> ShuffledLabelsResult:
    """Train three heads on train, and compare their heatmaps on a random sample of val.

    The sample, the shuffled labels and the initial weights depend on `seed`. All heatmaps are for the class that the
    first head answers. Raises BundleError, EngineError, and DataError if a class has no pictures in train or val, if
    the sample has fewer than two groups, if `epochs` is below 1, or if `seed` is negative.
    """
    if epochs < 1 or seed < 0:
        raise DataError(f"{epochs} epochs from seed {seed}: choose --epochs of 1 or more and --seed of 0 or more")
    read = read_bundle(bundle)
    samples = list(kept_samples(data)) if (data / "samples.csv").is_file() else read_samples(data)
    of_train, of_val = (_of_split(samples, split, read.manifest.classes) for split in ("train", "val"))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(of_val))[: max(picture_count, 0)])
    if len({of_val[number].group or number for number in chosen.tolist()}) < 2:
        raise DataError("intervals need pictures of at least two groups: choose more --pictures")
    engine = load_engine(read, "auto")
    train, val = encode_split(engine, read, of_train), encode_split(engine, read, of_val)
    recipes = {
        "true labels": (train.labels, 2 * seed),
        "shuffled labels": (shuffle_labels(train.labels, seed), 2 * seed + 1),
        "true labels again": (train.labels, 2 * seed + 1),
    }
    heads = {name: train_head(read, train, labels, epochs, start) for name, (labels, start) in recipes.items()}
    return ShuffledLabelsResult(
        bundle_name=read.manifest.name,
        bundle_sha256=read.sha256,
        data=str(data),
        pictures={"train": len(train.labels), "val": len(val.labels), "explained": len(chosen)},
        epochs=epochs,
        seed=seed,
        heads={name: _head_metrics(head, train, recipes[name][0], val) for name, head in heads.items()},
        rows=_rows(list(heads.values()), val, chosen, read.baseline),
    )


def encode_split(engine: Engine, bundle: Bundle, samples: Sequence[Sample]) -> EncodedSplit:
    """Compute the feature maps of the samples. Raises DataError for a picture that cannot be read."""
    parts = FeatureMaps[list[np.ndarray]]()
    rule = bundle.manifest.input
    size = (rule.height_px, rule.width_px)
    for images in to_engine_batches(prepared_batches(samples, size, rule.stretch, engine.batch_size)):
        for branch, branch_maps in engine.encode(images).items():
            parts.setdefault(branch, []).append(to_float16(branch_maps))
    labels = np.array([bundle.manifest.classes.index(sample.label) for sample in samples])
    groups = tuple(sample.group or str(sample.path) for sample in samples)
    return EncodedSplit(parts.map(np.concatenate), labels, groups)


def shuffle_labels(labels: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """Return a random permutation of the labels."""
    return np.random.default_rng(seed).permutation(labels)


def train_head(
    bundle: Bundle, train: EncodedSplit, labels: Int[np.ndarray, " n"], epochs: int, seed: int
) -> TorchEngine:
    """Train a new head of the bundle's architecture on stored maps and these labels.

    Training minimises the cross-entropy with AdamW, without dropout, so that the head can memorise random labels. The
    initial weights and the order of the pictures depend on `seed`. The returned engine has a head and no trunk.
    """
    manifest = bundle.manifest
    size, options = (manifest.input.height_px, manifest.input.width_px), manifest.architecture.model_dump()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CNNViTFusion(len(manifest.classes), image_size=size, **(options | {"dropout": 0.0}))
    model.cnn = model.swin = None
    adam = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    rng, batches = np.random.default_rng(seed), -(-len(labels) // _BATCH)
    order: list[Int[np.ndarray, " b"]] = []
    updates = epochs * batches
    for update in tracked(range(updates), "training a head", "updates", updates):
        if not order:
            order = np.array_split(rng.permutation(len(labels)), batches)
        rows = order.pop()
        adam.param_groups[0]["lr"] = _RATE * warmup_cosine(update, int(_WARMUP_SHARE * updates), updates)
        maps = _select(train.maps, rows).map(torch.from_numpy)
        loss = cross_entropy(model.classify(maps)[0], torch.from_numpy(labels[rows]))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return TorchEngine(model.eval().requires_grad_(False))


def heatmaps_of(head: Engine, maps: Maps, baseline: Maps, weights: Float[np.ndarray, " k"]) -> dict[Variant, Heatmap]:
    """Compute the heatmaps of one picture by every method, for a weighting of the logits."""
    inputs = AttributionInput(maps, baseline, HeadScore(head, weights))
    inputs = replace(inputs, precomputed_endpoints=inputs.endpoints(), precomputed_gradient=inputs.gradient())
    heatmaps: dict[Variant, Heatmap] = {}
    for name, method in METHODS.items():
        attribution = method.attribute(inputs)
        heatmaps |= {(name, str(branch)): heatmap for branch, heatmap in attribution.heatmaps.items()}
        if len(maps) > 1:
            heatmaps[name, "fusion"] = merged(attribution, merge_rule_of(name, None))
    return heatmaps


def rank_correlations(a: Heatmap, b: Heatmap) -> tuple[float, float]:
    """Return Spearman's correlation of two heatmaps, and that of their absolute values (see also `correlation`)."""
    return correlation(_ranks(a), _ranks(b)), correlation(_ranks(np.abs(a)), _ranks(np.abs(b)))


def _of_split(samples: Sequence[Sample], split: str, classes: Sequence[str]) -> list[Sample]:
    chosen = [sample for sample in samples if sample.split == split]
    if (labels := {sample.label for sample in chosen}) != set(classes):
        raise DataError(
            f"{split} has pictures of {', '.join(sorted(labels)) or 'no class'}, but the bundle's classes are "
            f"{', '.join(classes)}: give data with pictures of exactly these classes in train and in val"
        )
    return chosen


def _head_metrics(head: Engine, train: EncodedSplit, labels: Int[np.ndarray, " n"], val: EncodedSplit) -> HeadMetrics:
    of_train, of_val = (_probabilities(head, split) for split in (train, val))
    metric_of = classification_metrics(of_val.shape[1], DecisionRule(positive=1 if of_val.shape[1] == 2 else None))
    return HeadMetrics(
        metric_of["accuracy"](of_train, labels),
        metric_of["accuracy"](of_val, val.labels),
        metric_of["auroc"](of_val, val.labels),
    )


def _probabilities(head: Engine, split: EncodedSplit) -> Float[np.ndarray, "n k"]:
    parts = []
    for start in range(0, len(split.labels), _BATCH):
        maps = _select(split.maps, slice(start, start + _BATCH))
        parts.append(torch.from_numpy(head.classify(maps)).double().softmax(dim=1).numpy())
    return np.concatenate(parts)


def _select(maps: FeatureMaps[np.ndarray], rows: slice | int | Int[np.ndarray, " b"]) -> FeatureMaps[np.ndarray]:
    """Return the maps of some pictures in float32."""
    return maps.map(lambda branch_maps: to_float32(branch_maps[rows]))


def _ranks(heatmap: Heatmap) -> Heatmap:
    """Return the rank of each value. Equal values share their mean rank."""
    _, position, counts = np.unique(heatmap, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[position.reshape(heatmap.shape)])


def _rows(
    heads: Sequence[Engine], val: EncodedSplit, chosen: Int[np.ndarray, " m"], baseline: Maps
) -> list[VariantRow]:
    """Compute the table. `heads` are those of the true labels, of the shuffled labels, and the control."""
    correlations: dict[tuple[str, Variant], list[list[float]]] = {}
    for number in tracked(chosen.tolist(), "explaining", "pictures", len(chosen)):
        maps = _select(val.maps, number)
        (logits,) = heads[0].classify(batched([maps]))
        answer = np.eye(len(logits), dtype=np.float32)[logits.argmax()]
        for score, weights in zip(SCORES, (answer, answer - (1 - answer) / (len(logits) - 1)), strict=True):
            true, *others = (heatmaps_of(head, maps, baseline, weights) for head in heads)
            for variant, heatmap in true.items():
                signed, absolute = zip(*(rank_correlations(heatmap, other[variant]) for other in others), strict=True)
                correlations.setdefault((score, variant), []).append([*signed, *absolute])
    groups = [val.groups[number] for number in chosen]
    return [
        VariantRow(score, *variant, *estimates(np.array(values), groups))
        for (score, variant), values in correlations.items()
    ]
