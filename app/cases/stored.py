"""A bundle's index of cases, made of its tensors.

The bundle's reader has verified the file; here its numbers are checked against the manifest and each other, so that an
index that was written wrongly is refused when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.bundles.checks import reading, require, require_basis, require_bounded
from app.bundles.manifest import CASES, Cases, CasesChoice, Manifest
from app.bundles.reader import Bundle
from app.cases.index import MOST_DIMENSIONS, CaseIndex, Projection
from app.shapes import UInt8

Tensors = Mapping[str, np.ndarray]
_LENGTH = 0.02  # by how much rounding to fp16 changes the square of a vector's length, at most
_JPEG = b"\xff\xd8\xff"


def tensors_of(index: CaseIndex) -> dict[str, np.ndarray]:
    """The content of the file, by the tensors' names."""
    tensors = {
        "vectors": index.vectors,
        "labels": index.labels.astype(np.int32),
        "groups": index.groups.astype(np.int32),
        "is_local": index.is_local.astype(np.uint8),
        **_packed("names", [name.encode() for name in index.names]),
    }
    for branch, projection in index.projections.items():
        tensors |= {f"{branch}.mean": projection.mean, f"{branch}.basis": projection.basis}
    if index.group_names is not None:
        tensors |= _packed("group_names", [name.encode() for name in index.group_names])
    if index.thumbnails is not None:
        tensors |= _packed("thumbnails", index.thumbnails)
    return {name: np.ascontiguousarray(values) for name, values in tensors.items()}


def cases_of(bundle: Bundle) -> CaseIndex | None:
    """The bundle's index, or None if it has none. Raises BundleError if its numbers cannot be what they should."""
    if (section := bundle.manifest.cases) is None:
        return None
    with reading(CASES, "index of cases", "make it again"):
        return _index(bundle.cases, bundle.manifest, section)


def _index(tensors: Tensors, manifest: Manifest, section: Cases) -> CaseIndex:
    vectors = _of(tensors, "vectors", np.float16)
    require(vectors.ndim == 2 and 0 < vectors.shape[1] <= MOST_DIMENSIONS and len(vectors) > 0, "vectors are no table")
    branches = len(manifest.map_shapes)  # each has a length of its own, 1 or 0
    squares = np.square(vectors.astype(np.float32)).sum(axis=1, keepdims=True)
    off = np.abs(squares - np.arange(branches + 1) / branches).min(axis=1)
    require(bool((off < _LENGTH).all()), "a vector has not the length of 1")
    labels, groups = (_of(tensors, name, np.int32) for name in ("labels", "groups"))
    is_local = _of(tensors, "is_local", np.uint8)
    names = _unpacked(tensors, "names")
    for name, values in (("labels", labels), ("groups", groups), ("is_local", is_local), ("names", names)):
        require(np.shape(values) == (len(vectors),), f"{name} are not of as many cases as vectors")
    require(bool(((labels >= 0) & (labels < len(manifest.classes))).all()), "labels name a class that there is not")
    require(bool((groups >= 0).all()), "groups are negative")
    index = CaseIndex(
        CasesChoice(names=section.names, groups=section.groups, thumbnails=section.thumbnails),
        manifest.classes,
        {branch: _projection(tensors, branch, shape[0]) for branch, shape in manifest.map_shapes.items()},
        vectors,
        labels,
        groups,
        is_local.astype(bool),
        tuple(name.decode() for name in names),
        tuple(name.decode() for name in _unpacked(tensors, "group_names")) if section.groups else None,
        tuple(_unpacked(tensors, "thumbnails")) if section.thumbnails else None,
    )
    require(sum(each.basis.shape[1] for each in index.projections.values()) == vectors.shape[1], "no basis fits them")
    require(
        index.group_names is None or int(groups.max()) < len(index.group_names), "groups have numbers without a name"
    )
    if index.thumbnails is not None:
        require(len(index.thumbnails) == len(vectors), "thumbnails are not of as many cases as vectors")
        require(all(each.startswith(_JPEG) for each in index.thumbnails), "a thumbnail is no JPEG")
    require(tensors_of(index).keys() == tensors.keys(), "it has tensors that are not known or that its card forbids")
    require(
        section.pictures == len(vectors), f"the manifest counts {section.pictures} cases, and it has {len(vectors)}"
    )
    return index


def _projection(tensors: Tensors, branch: str, channels: int) -> Projection:
    mean, basis = _of(tensors, f"{branch}.mean", np.float32), _of(tensors, f"{branch}.basis", np.float16)
    require_basis(mean, basis, channels, branch)
    require_bounded(mean, f"{branch}.mean")
    return Projection(mean, basis)


def _of(tensors: Tensors, name: str, kind: type[np.generic]) -> np.ndarray:
    values = tensors[name]
    require(values.dtype == kind, f"{name} holds {values.dtype.name}, not {np.dtype(kind).name}")
    return values


def _packed(name: str, texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Texts of any length in two tensors: all bytes, and where each text ends."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {name: np.frombuffer(b"".join(texts), np.uint8), f"{name}.ends": ends}


def _unpacked(tensors: Tensors, name: str) -> list[bytes]:
    content: UInt8[np.ndarray, " n"] = _of(tensors, name, np.uint8)
    ends = _of(tensors, f"{name}.ends", np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    fits = ends.ndim == 1 and bool((ends >= starts).all()) and (not len(ends) or int(ends[-1]) == len(content))
    require(fits, f"{name}.ends do not fit {name}")
    whole = content.tobytes()
    return [whole[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
