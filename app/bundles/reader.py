"""Reads and verifies a bundle: a folder with one trained model and all that is needed to serve it.

`manifest.json` describes the model and holds the SHA-256 of every other file, so its own digest pins the whole bundle.
The bytes whose digest was checked are the bytes that are used, and a graph that is read again is verified again. A file
that does not match is refused. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from app.bundles.graph_names import GRAPHS, LIFTED, MAX_XML_BYTES, TOKENS
from app.bundles.manifest import BASELINE, CASES, MANIFEST, TRUST, WEIGHTS, Manifest, parse_manifest
from app.errors import BundleError
from app.models.feature_maps import FeatureMaps, weights_of

# Far more than a bundle needs. What is larger is refused before it is read: a file of holes costs its author nothing.
# Files of weights have the first limit, and all others one of their own.
MAX_WEIGHTS_BYTES = 2 << 30
MAX_BYTES = {MANIFEST: 1 << 20, BASELINE: 64 << 20, TRUST: 64 << 20, CASES: 256 << 20}
MAX_BYTES |= dict.fromkeys([name for name in (*GRAPHS, *LIFTED, TOKENS) if ".xml" in name], MAX_XML_BYTES)
MAX_HEADER_BYTES = 4 << 20  # of a safetensors file: the names and shapes of its tensors


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle.

    `sha256` is the digest of manifest.json. `tensors` is the state of the model, with floats in fp16. `baseline` holds
    the training data's mean feature maps, float32 `[C, h, w]`. `graphs` are the bytes of the compiled graphs by file
    name; it is empty if the bundle has none. `trust` and `cases` are the tensors of the trust part and of the index
    of similar cases, of which the same holds.
    """

    path: Path
    sha256: str
    manifest: Manifest
    tensors: Mapping[str, np.ndarray]
    baseline: FeatureMaps[np.ndarray]
    graphs: Mapping[str, bytes]
    trust: Mapping[str, np.ndarray] = field(default_factory=dict)
    cases: Mapping[str, np.ndarray] = field(default_factory=dict)

    def without_weights(self) -> Bundle:
        """A copy without tensors and graphs, which are not needed once an engine is loaded."""
        return replace(self, tensors={}, graphs={})

    def graph(self, name: str) -> bytes:
        """The content of a graph's file, from memory or, verified again, from the folder. Raises BundleError."""
        if name in self.graphs:
            return self.graphs[name]
        return _read_verified(self.path, name, self.manifest.files[name])


def read_bundle(path: Path, pinned_sha256: str | None = None) -> Bundle:
    """Read and verify the bundle in the folder `path`.

    With `pinned_sha256`, the manifest must have this digest. Whether the tensors fit the architecture is checked by the
    torch engine, which builds the model. Raises BundleError.
    """
    text = _read(path, MANIFEST)
    sha256 = hashlib.sha256(text).hexdigest()
    if pinned_sha256 is not None and pinned_sha256.lower() != sha256:
        raise BundleError(MANIFEST, f"its sha256 is {sha256}, but {pinned_sha256} is pinned: this is another bundle")
    manifest = parse_manifest(text)
    with ThreadPoolExecutor(thread_name_prefix="read") as threads:  # digests of large files take most of the time
        read = threads.map(partial(_read_verified, path), manifest.files.keys(), manifest.files.values())
        contents = dict(zip(manifest.files, read, strict=True))
    tensors, baseline_tensors = (_tensors(name, contents[name]) for name in (WEIGHTS, BASELINE))
    _check_weights(manifest, tensors)
    _check_baseline(manifest, baseline_tensors)
    graphs = {name: contents[name] for name in (*GRAPHS, *LIFTED, TOKENS) if name in contents}
    baseline = FeatureMaps({branch: baseline_tensors[branch] for branch in manifest.branches})
    trust, cases = (_tensors(name, contents[name]) if name in contents else {} for name in (TRUST, CASES))
    return Bundle(path, sha256, manifest, tensors, baseline, graphs, trust, cases)


def _read(folder: Path, name: str) -> bytes:
    file = folder / name
    try:
        if not folder.is_dir():
            raise BundleError(name, f"there is no folder {folder}: give the folder of a bundle")
        if not file.is_file():
            raise BundleError(name, f"is missing in {folder}: copy the whole bundle")
        if not file.resolve().is_relative_to(folder.resolve()):
            raise BundleError(name, f"is a link to {file.resolve()}, outside the bundle: put the file itself there")
        with file.open("rb") as opened:
            size, limit = os.fstat(opened.fileno()).st_size, MAX_BYTES.get(name, MAX_WEIGHTS_BYTES)
            if size > limit:
                raise BundleError(name, f"has {size:,} bytes, but at most {limit:,} are read: export another bundle")
            return opened.read(size)
    except OSError as error:
        raise BundleError(name, f"cannot be read: {error.strerror}") from error


def _read_verified(folder: Path, name: str, expected: str) -> bytes:
    data = _read(folder, name)
    if (actual := hashlib.sha256(data).hexdigest()) != expected:
        raise BundleError(name, f"its sha256 is {actual}, but the manifest says {expected}: copy or export it again")
    return data


def _tensors(name: str, data: bytes) -> dict[str, np.ndarray]:
    if (header := int.from_bytes(data[:8], "little")) > MAX_HEADER_BYTES:
        reason = f"its header has {header:,} bytes, but at most {MAX_HEADER_BYTES:,} are read: export it again"
        raise BundleError(name, f"is not a readable safetensors file ({reason})")
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a number format that numpy lacks
        raise BundleError(name, f"is not a readable safetensors file ({error}): export it again") from error
    if broken := [tensor for tensor, values in tensors.items() if not _is_finite(values)]:
        raise BundleError(name, f"tensor {broken[0]} holds values that are not finite: export other weights")
    return tensors


def _is_finite(values: np.ndarray) -> bool:
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    exponents = values.view(np.uint16) & 0x7C00  # all ones for infinities and NaN; numpy.isfinite is slow for fp16
    return not bool((exponents == 0x7C00).any())


def _check_weights(manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> None:
    classes = len(manifest.classes)
    for name, values in tensors.items():
        if name.startswith("head.") and name.endswith("classifier.weight") and values.shape[:1] != (classes,):
            raise BundleError(WEIGHTS, f"{name} is {list(values.shape)}, but the manifest names {classes} classes")
    for branch, normalization in manifest.normalization.items():
        for statistic in ("mean", "std"):
            name = f"{weights_of(branch)}_{statistic}"
            stored = tensors.get(name)
            if stored is not None and stored.dtype.kind != "f":
                raise BundleError(WEIGHTS, f"{name} holds {stored.dtype.name}, not floats: export it again")
            if stored is not None and not np.array_equal(
                stored.ravel(), np.array(getattr(normalization, statistic), stored.dtype)
            ):
                raise BundleError(
                    WEIGHTS, f"{name} is {stored.ravel().tolist()}, not what the manifest's normalization says"
                )


def _check_baseline(manifest: Manifest, baseline_tensors: Mapping[str, np.ndarray]) -> None:
    actual = {branch: (values.dtype.name, values.shape) for branch, values in baseline_tensors.items()}
    expected = {branch: ("float32", shape) for branch, shape in manifest.map_shapes.items()}
    if actual != expected:
        raise BundleError(BASELINE, f"holds {actual}, but the manifest's map_shapes need {expected}: export it again")
