"""Writes a copy of a bundle with a trust part, and with an index of similar cases: weights and graphs stay."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.numpy

from app.bundles.manifest import CASES, FORMAT, MANIFEST, TRUST, Cases, Manifest, Trust
from app.bundles.reader import Bundle, read_bundle
from app.cases.index import CaseIndex
from app.cases.stored import cases_of, tensors_of
from app.trust.fitted import FittedTrust, trust_of

NO_TRUST = "No trust part: "  # how a note begins that says why a bundle was exported without one


def write_with_trust(
    bundle: Bundle, out: Path, section: Trust, fitted: FittedTrust, cases: CaseIndex | None = None
) -> Bundle:
    """Copy a bundle to the folder `out`, which does not exist or is empty, with this trust part in place of its own.

    With `cases`, that becomes its index of similar cases. The folder appears complete and verified, or not at all.
    Raises BundleError.
    """
    contents = {TRUST: safetensors.numpy.save(fitted.tensors())}
    notes = tuple(note for note in bundle.manifest.notes if not note.startswith(NO_TRUST))
    changed: dict[str, Any] = {"format": FORMAT, "trust": section, "notes": notes}
    if cases is not None:
        contents[CASES] = safetensors.numpy.save(tensors_of(cases))
        changed["cases"] = Cases(**dict(cases.shows), pictures=len(cases.vectors))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = Manifest.model_validate({**dict(bundle.manifest), **changed, "files": bundle.manifest.files | digests})
    fields = {"format": manifest.format, **manifest.model_dump(mode="json")}
    contents[MANIFEST] = (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        for name in bundle.manifest.files.keys() - contents.keys():
            (folder / name).write_bytes((bundle.path / name).read_bytes())  # the copy is verified below
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        written = read_bundle(folder)
        trust_of(written)
        cases_of(written)
        folder.rename(out)
    return read_bundle(out)
