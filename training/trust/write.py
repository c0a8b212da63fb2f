"""Writes a bundle with a trust part: a copy of another bundle, whose weights and graphs stay as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.numpy

from app.bundles.manifest import FORMAT, MANIFEST, TRUST, Manifest, Trust
from app.bundles.reader import Bundle, read_bundle
from app.trust.fitted import FittedTrust, trust_of

NO_TRUST = "No trust part: "  # how a note begins that says why a bundle was exported without one


def write_with_trust(bundle: Bundle, out: Path, section: Trust, fitted: FittedTrust) -> Bundle:
    """Copy a bundle to the folder `out`, which does not exist or is empty, with this trust part in place of its own.

    The folder appears complete and verified, or not at all. Raises BundleError.
    """
    content = safetensors.numpy.save(fitted.tensors())
    files = bundle.manifest.files | {TRUST: hashlib.sha256(content).hexdigest()}
    notes = tuple(note for note in bundle.manifest.notes if not note.startswith(NO_TRUST))
    changed = {"format": FORMAT, "trust": section, "notes": notes, "files": files}
    manifest = Manifest.model_validate({**dict(bundle.manifest), **changed})
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
