"""Makes the index of similar cases from the training pictures, and adds a site's own pictures to it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from app.bundles.manifest import CasesChoice
from app.cases.index import MOST_DIMENSIONS, CaseIndex, Projection, vectors_of
from app.models.feature_maps import to_float16
from app.pictures.decode import TargetSizes, decode
from app.pictures.preview import preview
from app.shapes import Float, Int
from training.data.limits import TRAINING_LIMITS
from training.data.samples import Sample
from training.trust.observed import Observed

THUMBNAIL_PX, _QUALITY = 96, 80
_DIGITS = 16  # of a file's SHA-256, which name a case


def build_index(seen: Observed, samples: Sequence[Sample], classes: Sequence[str], choice: CasesChoice) -> CaseIndex:
    """The index of pictures that the model has seen. `choice` says what it may show of them besides their labels."""
    dimensions = MOST_DIMENSIONS // len(seen.features)
    projections = {branch: fit_projection(of_branch, dimensions) for branch, of_branch in seen.features.items()}
    return CaseIndex(
        choice,
        tuple(classes),
        projections,
        to_float16(vectors_of(projections, seen.features)),
        seen.labels,
        *_shown(seen, samples, choice),
    )


def add_cases(index: CaseIndex, seen: Observed, samples: Sequence[Sample]) -> CaseIndex:
    """The index with further pictures, which a site has added. What it shows of them is what it shows of the others."""
    groups, is_local, names, group_names, thumbnails = _shown(seen, samples, index.shows)
    first = int(index.groups.max()) + 1
    return replace(
        index,
        vectors=np.concatenate([index.vectors, to_float16(index.vectors_of(seen.features))]),
        labels=np.concatenate([index.labels, seen.labels]),
        groups=np.concatenate([index.groups, groups + first]),
        is_local=np.concatenate([index.is_local, ~is_local]),
        names=(*index.names, *names),
        group_names=None if group_names is None else (*(index.group_names or ()), *group_names),
        thumbnails=None if thumbnails is None else (*(index.thumbnails or ()), *thumbnails),
    )


def fit_projection(features: Float[np.ndarray, "n c"], dimensions: int) -> Projection:
    """The leading principal components of pooled maps, as many as there are at most."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviations = np.asarray(features, np.float64) - mean
    _, directions = np.linalg.eigh(deviations.T @ deviations)
    return Projection(mean, np.ascontiguousarray(directions[:, ::-1][:, :dimensions], np.float16))


def _shown(
    seen: Observed, samples: Sequence[Sample], choice: CasesChoice
) -> tuple[Int[np.ndarray, " n"], np.ndarray, tuple[str, ...], tuple[str, ...] | None, tuple[bytes, ...] | None]:
    """Groups as numbers, that no case is a site's own, names, names of groups, and thumbnails."""
    names_of_groups, groups = np.unique(np.array(seen.groups), return_inverse=True)
    folder = Path(os.path.commonpath([sample.path.parent for sample in samples]))
    return (
        groups,
        np.zeros(len(samples), bool),
        tuple(_name(sample.path, folder, choice) for sample in samples),
        tuple(_group_names(names_of_groups.tolist(), folder)) if choice.groups else None,
        tuple(_thumbnail(sample.path) for sample in samples) if choice.thumbnails else None,
    )


def _name(path: Path, folder: Path, choice: CasesChoice) -> str:
    if choice.names:
        return path.relative_to(folder).as_posix()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]


def _group_names(names: Sequence[str], folder: Path) -> list[str]:
    """The names of groups. A picture without a group is one of its own, named by its path below the folder."""
    prefix = f"{folder}{os.sep}"
    return [name.removeprefix(prefix) for name in names]


def _thumbnail(path: Path) -> bytes:
    """A small JPEG of a picture."""
    picture = decode(path.read_bytes(), TRAINING_LIMITS, TargetSizes((THUMBNAIL_PX, THUMBNAIL_PX), THUMBNAIL_PX))
    data = io.BytesIO()
    Image.fromarray(np.asarray(preview(picture, THUMBNAIL_PX))).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
