"""Makes the index of similar cases from the training pictures, and adds a site's own pictures to it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.bundles.manifest import CasesChoice
from app.cases.index import MOST_DIMENSIONS, CaseIndex, Projection, vectors_of
from app.models.feature_maps import Branch, to_float16
from app.pictures.decode import TargetSizes, decode
from app.pictures.preview import preview
from app.shapes import Bool, Float16
from training.data.limits import TRAINING_LIMITS
from training.data.samples import Sample
from training.trust.novelty_fit import principal_components
from training.trust.observed import Observed

THUMBNAIL_PX, _QUALITY = 96, 80
_ROUNDING = 1e-3  # of a vector of length 1 to fp16, with what batches of another size add
_DIGITS = 16  # of a file's SHA-256, which name a case


def build_index(seen: Observed, samples: Sequence[Sample], classes: Sequence[str], choice: CasesChoice) -> CaseIndex:
    """The index of pictures that the model has seen. `choice` says what it may show of them besides their labels."""
    dimensions = MOST_DIMENSIONS // len(seen.features)
    projections = {
        branch: Projection(*principal_components(of_branch, dimensions)) for branch, of_branch in seen.features.items()
    }
    return _index(projections, seen, samples, tuple(classes), choice, is_local=False)


def add_cases(index: CaseIndex, seen: Observed, samples: Sequence[Sample]) -> CaseIndex:
    """The index with further pictures, which a site has added. What it shows of them is what it shows of the others.

    A picture that the index has already, by what the model makes of it, is there as the site's alone.
    """
    local = _index(index.projections, seen, samples, index.classes, index.shows, is_local=True)
    kept = np.flatnonzero(~_are_among(index.vectors, local.vectors)).tolist()
    thumbnails = None
    if index.thumbnails is not None and local.thumbnails is not None:
        thumbnails = (*(index.thumbnails[place] for place in kept), *local.thumbnails)
    return replace(
        index,
        vectors=np.concatenate([index.vectors[kept], local.vectors]),
        labels=np.concatenate([index.labels[kept], local.labels]),
        groups=np.concatenate([index.groups[kept], local.groups + index.groups.max() + 1]),
        is_local=np.concatenate([index.is_local[kept], local.is_local]),
        names=(*(index.names[place] for place in kept), *local.names),
        group_names=None if index.group_names is None else index.group_names + (local.group_names or ()),
        thumbnails=thumbnails,
    )


def _are_among(vectors: Float16[np.ndarray, "n q"], others: Float16[np.ndarray, "m q"]) -> Bool[np.ndarray, " n"]:
    """Which vectors are also among the others, but for rounding."""
    wide, other = vectors.astype(np.float32), others.astype(np.float32)
    nearest = (wide @ other.T).argmax(axis=1)
    return np.asarray(np.abs(wide - other[nearest]).max(axis=1) < _ROUNDING)


def _index(
    projections: Mapping[Branch, Projection],
    seen: Observed,
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    choice: CasesChoice,
    is_local: bool,
) -> CaseIndex:
    _, first, groups = np.unique(np.array(seen.groups), return_index=True, return_inverse=True)
    folder = Path(os.path.commonpath([sample.path.parent for sample in samples]))
    names = tuple(_name(sample.path, folder, choice) for sample in samples)
    # A picture without a group is one of its own, and is named as it is shown: its path may not be told.
    group_names = tuple(samples[place].group or names[place] for place in first.tolist())
    return CaseIndex(
        shows=choice,
        classes=classes,
        projections=projections,
        vectors=to_float16(vectors_of(projections, seen.features)),
        labels=seen.labels,
        groups=groups,
        is_local=np.full(len(samples), is_local),
        names=names,
        group_names=group_names if choice.groups else None,
        thumbnails=tuple(_thumbnail(sample.path) for sample in samples) if choice.thumbnails else None,
    )


def _name(path: Path, folder: Path, choice: CasesChoice) -> str:
    if choice.names:
        return path.relative_to(folder).as_posix()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]


def _thumbnail(path: Path) -> bytes:
    """A small JPEG of a picture."""
    picture = decode(path.read_bytes(), TRAINING_LIMITS, TargetSizes((THUMBNAIL_PX, THUMBNAIL_PX), THUMBNAIL_PX))
    data = io.BytesIO()
    preview(picture, THUMBNAIL_PX).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
