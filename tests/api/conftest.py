"""The services that the tests of the API talk to.

`pytest tests/api --address URL --served FOLDER` has `client` talk to a service that runs already, with the tiny bundle
in that folder and `max_upload_bytes` at MAX_UPLOAD_BYTES. Tests that do not talk to it, or look inside, are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.pictures.formats import MORE_FORMATS
from app.settings import Settings
from tests.support.pictures import png
from tests.support.serving import serving, serving_app

MAX_UPLOAD_BYTES = 8_000_000
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--address", metavar="URL", help="test the service that runs there, as far as it can be seen")
    parser.addoption("--served", metavar="FOLDER", type=Path, help="the tiny bundle that it serves")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--address", None):
        return
    for item in items:
        if HERE in item.path.parents and "client" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="asks nothing of the service at --address"))


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest) -> Path:
    """The bundle that `client`'s service has; written anew, it would not be the same to the last bit."""
    served: Path | None = request.config.getoption("--served", None)
    return served or request.getfixturevalue("tiny_bundle")


@pytest.fixture(scope="session")
def app(tiny_bundle: Path, pytestconfig: pytest.Config) -> FastAPI:
    """The application that `client` talks to."""
    if pytestconfig.getoption("--address", None):
        pytest.skip("looks inside the service, and the one at --address is another process")
    return create_app(Settings(bundle=tiny_bundle, max_upload_bytes=MAX_UPLOAD_BYTES, more_formats=MORE_FORMATS))


@pytest.fixture(scope="session")
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a service with the tiny bundle. Its settings are the defaults, but for `app`'s."""
    if address := request.config.getoption("--address", None):
        with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
            yield client
        return
    with serving_app(request.getfixturevalue("app")) as client:
        yield client


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service with five classes and no decision threshold."""
    from tests.support.bundles import write_tiny_bundle  # behind the import hook

    with serving(Settings(bundle=write_tiny_bundle(tmp_path_factory.mktemp("five"), classes=5))) as client:
        yield client


@pytest.fixture(scope="module")
def cnn_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service whose model has one branch and no attention."""
    from tests.support.bundles import write_tiny_bundle  # behind the import hook

    with serving(Settings(bundle=write_tiny_bundle(tmp_path_factory.mktemp("cnn"), fusion="cnn"))) as client:
        yield client


@pytest.fixture(scope="session")
def large_picture() -> bytes:
    """25 million black pixels in a small file: as many as a PNG may have."""
    return png(6250, 4000, 8, 2, bytes(4000 * (1 + 3 * 6250)))


@pytest.fixture(scope="module")
def trusted(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a trust part."""
    from tests.support.trusted import write_trusted  # behind the import hook

    return write_trusted(tiny_bundle, tmp_path_factory.mktemp("trusted") / "bundle")


@pytest.fixture(scope="module")
def trusting(trusted: Path) -> Iterator[httpx.Client]:
    """A client of a service with that bundle."""
    with serving(Settings(bundle=trusted)) as client:
        yield client
