"""A service that wants a key: the page asks for it, sends it where it belongs, and keeps it for the session only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from app.server.provision import add_key
from app.settings import Settings
from tests.support.programs import tool
from tests.support.serving import serving
from tests.support.visit import PATIENCE_S, Visit, assert_looks_like
from tests.web.conftest import EXAMPLES, ROOT

Visiting = Callable[[httpx.Client], Visit]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the keys by name."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    made = {"clinic": add_key(file, "clinic", ["predict"]), "scraper": add_key(file, "scraper", ["metrics"])}
    made["single"] = add_key(file, "single", ["predict"], concurrent=1)
    return file, made


@pytest.fixture(scope="module")
def keyed(browser: Browser, keys: tuple[Path, dict[str, str]]) -> Iterator[tuple[httpx.Client, str]]:
    """A client of a service that wants a key, and a key."""
    file, key = keys[0], keys[1]["clinic"]
    with serving(Settings(bundle=ROOT / "weights" / "demo", keys=file, deadline_s=PATIENCE_S)) as client:
        client.headers["X-API-Key"] = key
        client.timeout = PATIENCE_S
        yield client, key


def ran_with_key(command: list[str], key: str, folder: Path) -> None:
    """A copied command, beside its picture."""
    (folder / "ragged.webp").write_bytes((EXAMPLES / "ragged.webp").read_bytes())
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"FUSIONLENS_KEY": key}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    (folder / "overlay.png").unlink()


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(
    visit_of: Visiting, keyed: tuple[httpx.Client, str], tmp_path: Path
) -> None:
    tool("curl")
    service, key = keyed
    visit = visit_of(service)
    dialog = visit.page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    expect(visit.page.locator("#key-why")).to_contain_text("This needs a key")
    visit.enter("a-wrong-one")
    expect(visit.page.locator("#key-why")).to_contain_text("not known here")
    visit.enter(key)
    expect(dialog).to_be_hidden()
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    identity = visit.prediction_id
    assert_looks_like(visit.seen(), service.get("/explain", params={"prediction_id": identity}).content)
    assert (
        visit.save("png").path().read_bytes()
        == service.get("/explain", params={"prediction_id": identity, "colormap": "viridis", "alpha_max": 0.7}).content
    )
    for language, run in {"curl": ["sh", "-c"], "python": [sys.executable, "-c"]}.items():
        copied = visit.copied(language)
        assert "FUSIONLENS_KEY" in copied and key not in copied
        ran_with_key([*run, copied], key, tmp_path)
    visit.page.reload()
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")
    visit.page.locator("#strip button").click()
    visit.wait()
    assert not [request.url for request in visit.requests if key in request.url]
    holders = {name for request in visit.requests for name, value in request.headers.items() if key in value}
    assert holders == {"authorization"}, "proxies hide this header from their logs, and no other"
    assert visit.page.evaluate("localStorage.length") == 0, "the key, or what it was for, outlives the tab"
    other = visit_of(service)
    expect(other.page.locator("#key-dialog")).to_be_visible()
    expect(other.page.locator("#history")).to_be_hidden()
    visit.page.locator("#key-forget").click()
    expect(dialog).to_be_visible()
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_without_a_key_the_page_says_what_it_needs(visit_of: Visiting, keyed: tuple[httpx.Client, str]) -> None:
    visit = visit_of(keyed[0])
    visit.page.locator("#key-cancel").click()
    expect(visit.page.locator("#problem")).to_contain_text("This needs a key")
    visit.choose(EXAMPLES / "ragged.webp")
    expect(visit.page.locator("#key-dialog")).to_be_visible()
    visit.enter(keyed[1])
    visit.wait()
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")


def test_a_key_without_the_right_can_be_given_back(
    visit_of: Visiting, keyed: tuple[httpx.Client, str], keys: tuple[Path, dict[str, str]]
) -> None:
    visit = visit_of(keyed[0])
    visit.enter(keys[1]["scraper"])
    expect(visit.page.locator("#problem")).to_contain_text("has no right to this")
    visit.page.locator("#key-forget").click()
    expect(visit.page.locator("#key-dialog")).to_be_visible()
    visit.enter(keys[1]["clinic"])
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")


def test_a_key_that_may_ask_one_thing_at_a_time_is_enough(
    visit_of: Visiting, keyed: tuple[httpx.Client, str], keys: tuple[Path, dict[str, str]]
) -> None:
    visit = visit_of(keyed[0])
    visit.enter(keys[1]["single"])
    expect(visit.page.locator("#model-name")).to_contain_text("skin-demo")
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    visit.view("branches")
    expect(visit.page.locator("#panels figcaption")).to_have_count(3)
    expect(visit.page.locator("#problem")).to_be_empty()
