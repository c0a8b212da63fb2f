"""How much the Swin's tokens matter, and finer maps that are given up when something else is asked."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Request, expect

from tests.support.visit import Visit, assert_looks_like, listen
from tests.web.conftest import EXAMPLES


@pytest.fixture
def answered(visit: Visit) -> Visit:
    """The page with a picture that is answered."""
    visit.choose(EXAMPLES / "drawn.webp")
    visit.wait()
    return visit


def test_the_saliency_of_tokens_is_shown_at_every_stage(answered: Visit, service: httpx.Client) -> None:
    stages = service.get("/model").json()["token_stages"]
    assert len(stages) > 1
    identified = {"prediction_id": answered.prediction_id}
    answered.view("saliency")
    assert answered.page.locator("#token-stage option").all_inner_texts()[0].startswith(f"{stages[-1]} rows")
    for stage in reversed(stages):
        answered.select("token-stage", str(stage))
        drawn = service.get("/tokens", params={**identified, "token_stage": stage})
        assert_looks_like(answered.seen(), drawn.content)
        assert f"of {stage} × {stage} tokens" in answered.text("#caption")
    answered.select("target", "malignant")
    answered.select("against", "benign")
    asked = {"token_stage": stages[0], "target": "malignant", "against": "benign"}
    assert answered.asked("tokens")[-1].items() >= {name: str(value) for name, value in asked.items()}.items()
    overlay = service.get("/tokens", params={**identified, **asked, "colormap": "viridis", "alpha_max": 0.7})
    assert answered.save("png").path().read_bytes() == overlay.content
    assert "malignant rather than benign" in answered.text("#caption") and "not whether" in answered.text("#sentences")


def test_a_finer_map_is_given_up_when_something_else_is_asked(answered: Visit) -> None:
    failed: list[Request] = []
    answered.page.on("requestfailed", lambda request: failed.append(request))
    late = answered.hold("**/explain?*detail=fine*")
    answered.page.locator("#detail").check()
    late.wait()
    answered.page.locator("#detail").uncheck()
    answered.settle()
    listen(answered.page, lambda: bool(failed), "it was not given up")
    assert "detail=fine" in failed[0].url
    late.release()
    answered.check("detail")  # which is asked anew
    assert len(answered.asked("explain")) == 3 and "moved by up to" in answered.text("#sentences")
    expect(answered.page.locator("#problem")).to_be_empty()
