"""Writes a bundle with a trust part: a copy of another bundle, whose weights and graphs stay as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.numpy

from app.bundles.manifest import FORMAT, MANIFEST, TRUST, Manifest
from app.bundles.reader import Bundle, read_bundle
from app.trust.fitted import trust_of
from training.trust.fit import TrustFit


def write_with_trust(bundle: Bundle, out: Path, fit: TrustFit) -> Bundle:
    """Copy a bundle to the folder `out`, which does not exist or is empty, with this trust part in place of its own.

    The folder appears complete and verified, or not at all. Raises BundleError.
    """
    content = safetensors.numpy.save(fit.fitted.tensors())
    files = bundle.manifest.files | {TRUST: hashlib.sha256(content).hexdigest()}
    manifest = Manifest.model_validate(
        {**dict(bundle.manifest), "format": FORMAT, "trust": fit.section, "files": files}
    )
    fields = {"format": manifest.format, **manifest.model_dump(mode="json")}
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        for name in bundle.manifest.files:
            if name != TRUST:
                (folder / name).write_bytes((bundle.path / name).read_bytes())  # the copy is verified below
        (folder / TRUST).write_bytes(content)
        (folder / MANIFEST).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        trust_of(read_bundle(folder))
        folder.rename(out)
    return read_bundle(out)
