"""The services that the tests of the API talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings
from tests.serving import serving, serving_app

MAX_UPLOAD_BYTES = 8_000_000


@pytest.fixture(scope="session")
def app(tiny_bundle: Path) -> FastAPI:
    """The application that `client` talks to."""
    return create_app(Settings(bundle=tiny_bundle, max_upload_bytes=MAX_UPLOAD_BYTES))


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of a service with the tiny bundle and, but for the upload's limit, the settings' defaults."""
    with serving_app(app) as client:
        yield client


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service with five classes and no decision threshold."""
    from tests.bundles import write_tiny_bundle  # behind the import hook

    with serving(Settings(bundle=write_tiny_bundle(tmp_path_factory.mktemp("five"), classes=5))) as client:
        yield client


@pytest.fixture(scope="module")
def cnn_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service whose model has one branch and no attention."""
    from tests.bundles import write_tiny_bundle  # behind the import hook

    with serving(Settings(bundle=write_tiny_bundle(tmp_path_factory.mktemp("cnn"), fusion="cnn"))) as client:
        yield client
