"""A service that wants a key: the page asks for it, sends it where it belongs, and keeps it for the session only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from app.provision import add_key
from app.settings import Settings
from tests.serving import serving
from tests.web.conftest import EXAMPLES, ROOT
from tests.web.visit import Visit, assert_looks_like

Visiting = Callable[[httpx.Client], Visit]


@pytest.fixture(scope="module")
def keyed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, str]]:
    """A client of a service that wants a key, and a key."""
    file: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = add_key(file, "clinic", ["predict"])
    with serving(Settings(bundle=ROOT / "weights" / "demo", keys=file)) as client:
        client.headers["X-API-Key"] = key
        yield client, key


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(visit_of: Visiting, keyed: tuple[httpx.Client, str]) -> None:
    service, key = keyed
    visit = visit_of(service)
    dialog = visit.page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    expect(visit.page.locator("#key-why")).to_contain_text("This needs a key")
    visit.page.locator("#key").fill("a-wrong-one")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#key-why")).to_contain_text("not known here")
    visit.page.locator("#key").fill(key)
    visit.page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    identity = visit.asked("gradcam")[-1]["prediction_id"]
    assert_looks_like(visit.seen(), service.get("/gradcam", params={"prediction_id": identity}).content)
    assert (
        visit.save("png").path().read_bytes()
        == service.get("/gradcam", params={"prediction_id": identity, "colormap": "viridis", "alpha_max": 0.7}).content
    )
    for language in ("curl", "python"):
        assert "FUSIONLENS_KEY" in visit.copied(language) and key not in visit.copied(language)
    visit.page.reload()
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")
    visit.page.locator("#strip button").click()
    visit.wait()
    assert not [request.url for request in visit.requests if key in request.url]
    assert visit.page.evaluate("localStorage.length") == 0, "the key, or what it was for, outlives the tab"
    other = visit_of(service)
    expect(other.page.locator("#key-dialog")).to_be_visible()
    expect(other.page.locator("#history")).to_be_hidden()
    visit.page.locator("#key-forget").click()
    expect(dialog).to_be_visible()
    assert visit.page.evaluate("sessionStorage.getItem('fusionlens.key')") is None


def test_without_a_key_the_page_says_what_it_needs(visit_of: Visiting, keyed: tuple[httpx.Client, str]) -> None:
    visit = visit_of(keyed[0])
    visit.page.locator("#key-cancel").click()
    expect(visit.page.locator("#problem")).to_contain_text("This needs a key")
    visit.choose(EXAMPLES / "ragged.webp")
    expect(visit.page.locator("#key-dialog")).to_be_visible()
    visit.page.locator("#key").fill(keyed[1])
    visit.page.keyboard.press("Enter")
    visit.wait()
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")
