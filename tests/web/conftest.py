"""A real browser, Debian's Chromium, and the real services that the page's tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.support.programs import tool
from tests.support.served_process import environment, serving
from tests.support.visit import PATIENCE_S, Visit, launch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "app" / "web" / "examples"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. Without it the test is skipped, but in CI it fails.

    Its event loop runs in this thread, so it is gone before tests of other packages start one.
    """
    chromium = tool("chromium")
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        yield browser
        browser.close()


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[httpx.Client]:
    """A client of a service that is started in a folder as a user starts it, with these settings."""
    with (
        serving(folder, environment(ROOT, FUSIONLENS_DEADLINE_S=str(PATIENCE_S), **settings)) as served,
        httpx.Client(base_url=served.address, timeout=PATIENCE_S, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(scope="package")
def service(browser: Browser) -> Iterator[httpx.Client]:
    """A client of a service with the demo bundle."""
    with started(ROOT) as client:
        yield client


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that was never here before."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def visit_of(context: BrowserContext) -> Iterator[Callable[[httpx.Client], Visit]]:
    """`visit_of(service)` opens a service's page in another tab. Afterwards, nothing may have gone wrong in any."""
    visits: list[Visit] = []

    def visit(service: httpx.Client) -> Visit:
        visits.append(Visit(context.new_page(), str(service.base_url)))
        return visits[-1]

    yield visit
    for one in visits:
        one.assert_nothing_went_wrong()


@pytest.fixture
def visit(visit_of: Callable[[httpx.Client], Visit], service: httpx.Client) -> Visit:
    """The page of the service with the demo bundle."""
    return visit_of(service)
