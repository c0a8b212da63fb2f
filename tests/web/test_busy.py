"""The page is busy from what the user does until all of it is drawn, and `watch.js` would notice if it were not."""

from __future__ import annotations

import pytest
from playwright.sync_api import ElementHandle, expect

from tests.support.visit import Visit
from tests.web.conftest import EXAMPLES

RAGGED = EXAMPLES / "ragged.webp"
# Set a control to something else, as a user does, and say in the same task whether the page is busy with it.
_SET = """(control) => {
  if (control.type === "range") {
    control.value = control.value > 50 ? 20 : 80;
    control.dispatchEvent(new Event("input", { bubbles: true }));
  } else if (control instanceof HTMLSelectElement) {
    control.value = [...control.options].find(({ selected, disabled }) => !selected && !disabled).value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
    control.dispatchEvent(new Event("change", { bubbles: true }));
  } else control.click();
  return document.getElementById("view").ariaBusy === "true";
}"""
_NAME = "(control) => control.id || control.value"


@pytest.fixture
def answered(visit: Visit) -> Visit:
    """The page with a picture that was answered and explained."""
    visit.choose(RAGGED)
    visit.wait()
    return visit


def controls(visit: Visit) -> dict[str, ElementHandle]:
    """All that can be set in the question, in its drawing and among the views, by its name."""
    handles = visit.page.query_selector_all("#views input, #controls fieldset :is(select, input)")
    return {str(handle.evaluate(_NAME)): handle for handle in handles}


def test_whatever_is_set_the_view_is_busy_at_once_until_it_is_drawn(answered: Visit) -> None:
    untried = {*controls(answered)} - {"evidence", "branches", "tokens", "saliency", "novelty"}
    for view in ("tokens", "saliency", "evidence", "branches"):
        assert controls(answered)[view].evaluate(_SET), f"not busy with the view of {view}"
        answered.settle()
        for name, control in controls(answered).items():
            if name in untried and control.is_visible() and control.is_enabled():
                for _ in range(2):  # there and back: what is set here must not forbid what follows
                    assert control.evaluate(_SET), f"not busy with {name}"
                    answered.settle()
                untried.remove(name)
    assert untried == set()


def test_whatever_picture_is_taken_the_view_is_busy_at_once_until_it_is_explained(answered: Visit) -> None:
    for selector in ("[data-example*=drawn]", "#strip li:last-child button", "#strip button[aria-current]"):
        control = answered.page.query_selector(selector)
        assert control is not None and control.evaluate(_SET), f"not busy with {selector}"
        answered.wait()
    answered.page.route("**/predict", lambda route: route.abort("connectionrefused"), times=1)
    answered.choose(EXAMPLES / "disagreement.webp")
    answered.settle()
    expect(answered.page.locator("#problem")).to_contain_text("cannot be reached")
    answered.forgive("net::ERR_CONNECTION_REFUSED")
    again = answered.page.query_selector("#again")
    assert again is not None and again.evaluate(_SET), "not busy with another try"
    answered.wait()


def test_the_view_is_busy_as_long_as_anything_is_on_its_way(visit: Visit) -> None:
    predicted, explained, shown = (visit.hold(f"**/{route}*") for route in ("predict", "explain", "picture"))
    visit.choose(RAGGED)
    for held in (predicted, explained, shown):
        held.wait()
        assert visit.page.locator("#view").get_attribute("aria-busy") == "true"
        held.release()
    visit.wait()


def test_what_the_service_refuses_ends_it(answered: Visit) -> None:
    answered.page.route("**/explain?*branch=cnn*", lambda route: route.abort("connectionrefused"))
    answered.select("branch", "cnn")
    expect(answered.page.locator("#problem")).to_contain_text("cannot be reached")
    answered.forgive("net::ERR_CONNECTION_REFUSED")


def test_what_changes_behind_the_users_back_is_noticed(answered: Visit) -> None:
    for change, complaint in (
        ("document.getElementById('caption').textContent = 'Something else.'", "#caption changed"),
        ("document.querySelector('#sentences li').firstChild.data = 'Something else.'", "#sentences changed"),
        ("document.querySelector('#stage img').alt = 'Something else.'", "#stage changed"),
        ("document.getElementById('target').selectedOptions[0].text = 'Something else.'", "#target changed"),
        ("document.querySelector('#stage canvas').getContext('2d').clearRect(0, 0, 9, 9)", "#stage was painted"),
        ("document.getElementById('view').ariaBusy = 'true'", "the view became busy"),
    ):
        answered.page.evaluate(f"() => {{ {change}; }}")
        answered.forgive(f"Behind the user's back: {complaint}.")


def test_what_changes_by_the_user_or_while_the_view_is_busy_is_not(answered: Visit) -> None:
    for change in (
        """document.body.click();
          document.getElementById("sentences").replaceChildren();
          document.getElementById("view").ariaBusy = "true";""",
        """document.getElementById("caption").textContent = "Something else.";
          document.getElementById("view").ariaBusy = null;""",
    ):
        answered.page.evaluate(f"() => {{ {change} }}")
