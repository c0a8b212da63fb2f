"""Everyone can use it: axe-core finds nothing, the keyboard is enough, and it fits on a phone."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.visit import Visit
from tests.web.conftest import EXAMPLES

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def findings(visit: Visit) -> list[str]:
    """What axe-core complains about in the page as it is now."""
    visit.page.evaluate(AXE)  # not as a script element, which the page's security policy forbids
    asked = {"runOnly": {"type": "tag", "values": RULES}}
    result: dict[str, Any] = visit.page.evaluate("(asked) => axe.run(document, asked)", asked)
    assert len(result["passes"]) > 10
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]}" for one in result["violations"] for node in one["nodes"]
    ]


def empty(visit: Visit) -> None:
    """Nothing was done yet."""
    expect(visit.page.locator("#about-open")).to_be_visible()


def evidence(visit: Visit) -> None:
    """A picture is explained."""
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    visit.page.locator("#values summary").click()


def branches(visit: Visit) -> None:
    """The branches are side by side."""
    evidence(visit)
    visit.view("branches")


def tokens(visit: Visit) -> None:
    """A token is chosen, and a command was copied."""
    evidence(visit)
    visit.view("tokens")
    visit.page.locator("[data-cell='24']").click()
    visit.copied("curl")


def refused(visit: Visit) -> None:
    """A picture could not be read."""
    visit.choose(("notes.txt", b"no picture"))
    visit.settle()
    expect(visit.page.locator("#again")).to_be_visible()


def about(visit: Visit) -> None:
    """The model's card is open."""
    visit.page.locator("#about-open").click()
    expect(visit.page.locator("#about")).to_be_visible()


@pytest.mark.parametrize("state", [empty, evidence, branches, tokens, refused, about])
def test_axe_finds_nothing_and_it_fits_on_a_narrow_screen(visit: Visit, state: Callable[[Visit], None]) -> None:
    visit.page.emulate_media(color_scheme="light", reduced_motion="reduce")  # colours on their way have no contrast
    state(visit)
    assert findings(visit) == []
    visit.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    visit.page.set_viewport_size({"width": 320, "height": 640})
    widths = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], "it has to be scrolled sideways"
    assert findings(visit) == []


def reach(visit: Visit, selector: str, most: int = 60) -> None:
    """Tab on to an element, and see that where the focus is can be seen all the way."""
    for _ in range(most):
        visit.page.keyboard.press("Tab")
        focus = visit.page.evaluate(
            """(selector) => {
              const at = document.activeElement;
              const hidden = getComputedStyle(at).opacity === "0";
              const shown = hidden ? [at.closest(".button"), at.nextElementSibling].filter(Boolean) : [at];
              const seen = shown.some((one) => getComputedStyle(one).outlineStyle !== "none");
              return [at.matches(selector), seen || at === document.body, at.outerHTML.slice(0, 120)];
            }""",
            selector,
        )
        assert focus[1], f"the focus cannot be seen on {focus[2]}"
        if focus[0]:
            return
    pytest.fail(f"Tab does not reach {selector}")


def test_everything_goes_by_keyboard_alone(visit: Visit) -> None:
    expect(visit.page.locator("#about-open")).to_be_visible()
    reach(visit, "#choose")
    reach(visit, "[data-example*=ragged]")
    visit.press("Enter")
    visit.wait()
    reach(visit, "#strip button")
    visit.press("Enter")
    expect(visit.page.locator("#strip button")).to_be_focused()
    reach(visit, "[name=view]:checked")
    reach(visit, "#reveal")
    visit.press("ArrowLeft", 5)
    expect(visit.page.locator("#reveal")).to_have_value("95")
    reach(visit, "#zoom-in")
    visit.press("Space")
    expect(visit.page.locator("#zoom")).to_have_text("1.5×")
    reach(visit, "#target")
    visit.press("ArrowUp")
    assert "benign" in visit.text("#caption")
    reach(visit, "#branch")
    visit.press("ArrowDown", 2)
    assert "the Swin branch" in visit.text("#caption")
    reach(visit, "#opacity")
    visit.press("End")
    expect(visit.page.locator("output[for=opacity]")).to_have_text("100 %")
    reach(visit, "[data-save=npy]")
    with visit.page.expect_download() as download:
        visit.page.keyboard.press("Enter")
    method = visit.page.locator("#method").input_value()
    assert download.value.suggested_filename == f"ragged-{method}-swin-benign.npy"
    visit.page.locator("[name=view]:checked").focus()
    visit.press("ArrowRight", 2)
    reach(visit, "[data-cell]")
    visit.press("ArrowDown")
    middle = math.isqrt(visit.page.locator("[data-cell]").count()) // 2 + 1
    assert f"The token in row {middle + 1}, column {middle}" in visit.text("#caption")
    reach(visit, "#forget")
    visit.press("Enter")
    expect(visit.page.locator("#status")).to_have_text("Forgotten.")
    expect(visit.page.locator("#choose")).to_be_focused()


def test_results_are_announced_once(visit: Visit) -> None:
    evidence(visit)
    for selector, name, value in (
        ("#answer", "aria-live", "polite"),
        ("#caption", "aria-live", "polite"),
        ("#status", "role", "status"),
        ("#problem", "role", "alert"),
    ):
        expect(visit.page.locator(selector)).to_have_attribute(name, value)
    described = visit.page.locator("#stage img").get_attribute("alt") or ""
    assert described == f"ragged.webp. {visit.text('#caption')}"
    visit.page.evaluate(
        """() => {
          globalThis.said = 0;
          const heard = new MutationObserver((changes) => { said += changes.length; });
          for (const live of document.querySelectorAll("#answer, #caption"))
            heard.observe(live, { childList: true, subtree: true, characterData: true });
        }"""
    )
    visit.slide("opacity", 40)
    visit.choose(("notes.txt", b"no picture"))  # which becomes the current one, and says nothing of the other
    visit.settle()
    visit.picture("ragged.webp").click()
    visit.wait()
    changes = visit.page.evaluate("said")
    visit.slide("threshold", 10)
    visit.slide("contour", 10)
    assert visit.page.evaluate("said") == changes <= 4, "what was said is said again"
