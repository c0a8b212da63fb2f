"""What the browser keeps for the page: nothing that has expired, and where it may keep nothing the page goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from app.server.provision import add_key
from app.settings import Settings
from tests.support.programs import tool
from tests.support.serving import serving
from tests.support.visit import PATIENCE_S, Visit, launch_blocked
from tests.web.conftest import EXAMPLES

NOT_KEPT = "This browser keeps nothing"
RECORDS = "fusionlens.predictions"


@pytest.fixture(scope="module")
def keyed(browser: Browser, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service that wants a key and has no page of routes. The key is among its headers."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = add_key(file, "clinic", ["predict"])
    with serving(Settings(bundle=tiny_bundle, keys=file, docs=False, deadline_s=PATIENCE_S)) as client:
        client.headers["X-API-Key"] = key
        yield client


@pytest.fixture
def blocked(browser: Browser, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser whose user has forbidden all sites to store anything."""
    context = launch_blocked(browser, tool("chromium"), tmp_path)
    yield context
    context.close()


def test_where_nothing_may_be_stored_the_page_works_and_says_so(blocked: BrowserContext, keyed: httpx.Client) -> None:
    visit = Visit(blocked.new_page(), str(keyed.base_url))
    visit.enter(keyed.headers["X-API-Key"])
    expect(visit.page.locator("#not-kept")).to_contain_text(NOT_KEPT)
    assert visit.page.evaluate("(() => { try { return localStorage; } catch (error) { return error.name; } })()")
    visit.choose(EXAMPLES / "ragged.webp", EXAMPLES / "drawn.webp")
    expect(visit.page.locator("#strip [data-state=answered]")).to_have_count(2)
    visit.wait()
    visit.picture("ragged.webp").click()
    visit.wait()
    visit.page.locator("#forget").click()
    expect(visit.page.locator("#strip li")).to_have_count(1)
    expect(visit.page.locator("#docs")).to_be_hidden()
    visit.page.reload()
    expect(visit.page.locator("#key-dialog")).to_be_visible()
    expect(visit.page.locator("#history")).to_be_hidden()
    visit.page.locator("#key-cancel").click()
    visit.assert_nothing_went_wrong()


def test_what_has_expired_meanwhile_or_is_no_record_is_gone_after_the_next_visit(
    context: BrowserContext, visit_of: Callable[[httpx.Client], Visit], service: httpx.Client
) -> None:
    visit = visit_of(service)
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    expect(visit.page.locator("#docs")).to_be_visible()
    expect(visit.page.locator("#not-kept")).to_be_empty()
    (record,) = json.loads(visit.page.evaluate(f"localStorage.getItem('{RECORDS}')"))
    expired = [{**record, "id": "a", "until": 1000}, {**record, "id": "b", "until": None}, {"id": "c"}, None, 5]
    for area, kept in (("localStorage", [*expired, record]), ("sessionStorage", expired)):
        visit.page.evaluate(f"(text) => {area}.setItem('{RECORDS}', text)", json.dumps(kept))
    visit.page.reload()
    expect(visit.page.locator("#strip li")).to_have_count(1)
    assert json.loads(visit.page.evaluate(f"localStorage.getItem('{RECORDS}')")) == [record]
    assert visit.page.evaluate(f"sessionStorage.getItem('{RECORDS}')") == "[]"
    visit.page.evaluate(f"localStorage.setItem('{RECORDS}', '{{broken')")
    visit.page.reload()
    expect(visit.page.locator("#model-name")).not_to_be_empty()
    expect(visit.page.locator("#history")).to_be_hidden()
