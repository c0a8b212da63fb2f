"""Fixtures shared by all tests. Array shapes are checked at run time: see the import hook."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Models this small gain nothing from threads, which on a busy machine mostly wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
install_import_hook(["app", "training"], "beartype.beartype")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures that are not part of the project; tests that want them are skipped where they are absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("SKIPPED LOUDLY: no ../shared/data beside the project, so no real pictures to test with")
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny cross-attention bundle with the classes benign and malignant. Not to be changed: copy it."""
    from tests.bundles import write_tiny_bundle  # behind the import hook, and no torch for tests that do without

    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
