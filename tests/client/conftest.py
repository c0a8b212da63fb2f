"""The services that the client's tests talk to, each of them real and on a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fusionlens_client import Client

from app.settings import Settings
from tests.support.redis_server import SECRET
from tests.support.serving import serving
from tests.support.trusted import write_indexed


@pytest.fixture(scope="session")
def service(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with all that a bundle may have: a trust part, a map of foreign parts, an index of cases."""
    indexed = write_indexed(tmp_path_factory.mktemp("indexed"), tiny_bundle)
    with serving(Settings(bundle=indexed.bundle)) as raw:
        yield raw


@pytest.fixture(scope="session")
def plain_service(tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A service whose bundle has no trust part and no cases."""
    with serving(Settings(bundle=tiny_bundle)) as raw:
        yield raw


@pytest.fixture(scope="session")
def forgetful_service(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that cannot reach its store, so that it stores no prediction."""
    pytest.importorskip("redis")
    url = f"unix://:nobody@{tmp_path_factory.mktemp('gone') / 'redis.sock'}"
    with serving(Settings(bundle=tiny_bundle, redis_url=url, redis_secret=SECRET)) as raw:
        yield raw


@pytest.fixture(scope="session")
def client(service: httpx.Client) -> Iterator[Client]:
    """A client of `service`."""
    with Client(str(service.base_url)) as client:
        yield client


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where connections are made, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
