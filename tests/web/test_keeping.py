"""What this browser remembers: until it expires, in all its tabs, and no longer than the user wants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, expect

from app.settings import Settings
from tests.support.redis_server import redis_server
from tests.support.serving import serving
from tests.support.visit import PATIENCE_S, Visit
from tests.web.conftest import EXAMPLES, ROOT

DRAWN, RAGGED = EXAMPLES / "drawn.webp", EXAMPLES / "ragged.webp"
Visiting = Callable[[httpx.Client], Visit]


def test_after_a_reload_the_pictures_are_still_there(visit: Visit) -> None:
    visit.choose(RAGGED, DRAWN)
    expect(visit.page.locator("#strip [data-state=answered]")).to_have_count(2)
    visit.wait()
    label, seen = visit.text("#label"), visit.seen()
    visit.page.reload()
    expect(visit.page.locator("#result")).to_be_hidden()
    expect(visit.page.locator("#strip img:visible")).to_have_count(2)  # from the service
    visit.picture("ragged.webp").click()
    visit.wait()
    assert visit.text("#label") == label
    assert (visit.seen() == seen).all()
    assert len(visit.asked("predict")) == 2, "a picture was sent again"


def test_two_tabs_share_predictions_and_what_is_forgotten_is_gone_in_both(
    visit_of: Visiting, service: httpx.Client
) -> None:
    one, other = visit_of(service), visit_of(service)
    one.choose(RAGGED)
    one.wait()
    expect(other.page.locator("#strip li")).to_have_count(1)
    other.page.locator("#strip button").click()
    other.wait()
    assert other.text("#label") == one.text("#label")
    other.page.locator("#forget").click()
    for visit in (one, other):
        expect(visit.page.locator("#result")).to_be_hidden()
        expect(visit.page.locator("#strip li")).to_have_count(0)
        expect(visit.page.locator("#status")).to_have_text("Forgotten.")
    assert service.get("/explain", params={"prediction_id": one.prediction_id}).status_code == 404
    assert one.page.evaluate("localStorage.getItem('fusionlens.predictions')") == "[]"


def test_what_the_service_no_longer_knows_leaves_the_strip(visit: Visit, service: httpx.Client) -> None:
    visit.choose(RAGGED, DRAWN)
    expect(visit.page.locator("#strip [data-state=answered]")).to_have_count(2)
    visit.wait()
    service.delete(f"/predictions/{visit.prediction_id}")
    visit.page.reload()
    expect(visit.page.locator("#strip button")).to_have_count(1)
    expect(visit.page.locator("#strip button")).to_contain_text("drawn.webp")
    expect(visit.page.locator("#strip img:visible")).to_have_count(1)  # so all were asked for
    expect(visit.page.locator("#problem")).to_be_empty()


def test_all_can_be_forgotten_at_once(visit: Visit, service: httpx.Client) -> None:
    visit.choose(RAGGED, DRAWN)
    expect(visit.page.locator("#strip [data-state=answered]")).to_have_count(2)
    visit.wait()
    last = visit.prediction_id
    visit.page.locator("#forget-all").click()
    expect(visit.page.locator("#history")).to_be_hidden()
    assert service.get("/explain", params={"prediction_id": last}).status_code == 404
    visit.page.reload()
    expect(visit.page.locator("#history")).to_be_hidden()


def test_what_has_expired_leaves_the_strip_and_is_said(
    context: BrowserContext, visit_of: Visiting, service: httpx.Client
) -> None:
    """By a clock of the browser that is put on."""
    context.clock.install()
    visit, other = visit_of(service), visit_of(service)
    visit.choose(RAGGED)
    visit.wait()
    other.page.locator("#strip button").click()
    other.wait()
    kept_ms = round(1000 * service.get("/model").json()["limits"]["store_ttl_s"])
    context.clock.fast_forward(kept_ms // 2)
    for one in (visit, other):
        expect(one.page.locator("#kept-until")).to_contain_text("Kept until")
        expect(one.page.locator("#strip li")).to_have_count(1)
    over = datetime.fromtimestamp((visit.page.evaluate("Date.now()") + kept_ms) / 1000, UTC)
    context.clock.set_system_time(over)  # in both tabs, before either acts on it
    context.clock.fast_forward(kept_ms)
    for one in (visit, other):
        expect(one.page.locator("#problem")).to_contain_text("has expired")
        expect(one.page.locator("#label")).to_be_visible()
        expect(one.page.locator("#kept-until")).to_have_text("Expired.")
    expect(visit.page.locator("#history")).to_be_hidden()
    expect(visit.page.locator("#label")).to_be_visible()
    service.delete(f"/predictions/{visit.prediction_id}")  # the service has another clock
    refused = service.get("/explain", params={"prediction_id": visit.prediction_id, "branch": "cnn"})
    assert refused.status_code == 404
    visit.page.locator("#branch").select_option("cnn")
    expect(visit.page.locator("#problem")).to_have_text(refused.json()["detail"])
    visit.page.reload()
    expect(visit.page.locator("#history")).to_be_hidden()


def test_what_is_not_stored_is_explained_all_the_same(
    visit_of: Visiting, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a limit so low that Redis is given nothing."""
    with redis_server(tmp_path_factory.mktemp("redis")) as redis:
        patient = {"deadline_s": PATIENCE_S, "redis_timeout_s": PATIENCE_S}
        asked: dict[str, Any] = {"store_max_entry_bytes": 1000, **patient, **redis.settings}
        settings = Settings(bundle=ROOT / "weights" / "demo", **asked)
        with serving(settings) as service:
            visit = visit_of(service)
            visit.choose(RAGGED)
            visit.wait()
            expect(visit.page.locator("#picture-notes")).to_contain_text("was not stored")
            expect(visit.page.locator("#kept-until")).to_have_text("Not kept by the service.")
            expect(visit.page.locator("#forget")).to_be_disabled()
            explained = [request for request in visit.requests if "/explain" in request.url]
            assert [request.method for request in explained] == ["POST"]
            visit.view("tokens")
            assert "most at row" in visit.text("#caption")
            with_map = visit.seen()
            visit.slide("opacity", 0)
            assert (visit.seen() != with_map).any()
            visit.page.reload()
            expect(visit.page.locator("#history")).to_be_hidden()
