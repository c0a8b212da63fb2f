"""The files and folders that the documentation names exist."""

from __future__ import annotations

import re

from scripts.check_site import ROOT

NAMED = re.compile(r"`((?:app|benchmarks|deploy|docs|reliability|scripts|tests|training|weights)/[\w./-]*)`")


def test_every_path_in_the_documentation_exists() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = {(page.name, path) for page in pages for path in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 40
    assert sorted((page, path) for page, path in named if not (ROOT / path).exists()) == []
