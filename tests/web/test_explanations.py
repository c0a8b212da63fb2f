"""What is drawn over the picture is what the service draws, and is asked for no more often than it changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from app.drawing.overlay import COLORMAPS
from app.settings import Settings
from tests.support.asking import png_bytes
from tests.support.serving import serving
from tests.support.visit import PATIENCE_S, Visit, assert_looks_like
from tests.web.conftest import EXAMPLES

RAGGED = EXAMPLES / "ragged.webp"


@pytest.fixture
def answered(visit: Visit) -> Visit:
    """The page with a picture that was answered and explained."""
    visit.choose(RAGGED)
    visit.wait()
    return visit


def overlay(service: httpx.Client, visit: Visit, route: str = "explain", **query: Any) -> bytes:
    """The service's own drawing."""
    answer = service.get(f"/{route}", params={"prediction_id": visit.prediction_id, **query})
    assert answer.status_code == 200, answer.text
    return answer.content


def test_the_first_map_is_the_services_default(answered: Visit, service: httpx.Client) -> None:
    assert_looks_like(answered.seen(), overlay(service, answered))
    (asked,) = answered.asked("explain")
    method = service.get("/model").json()["default_method"]
    assert [asked[key] for key in ("method", "branch", "target", "format")] == [method, "fusion", "malignant", "json"]


def test_another_question_is_asked_once_and_drawn(answered: Visit, service: httpx.Client) -> None:
    drawn, questions = [answered.seen()], 1
    for control, value, query in (
        ("against", "benign", {"target": "malignant", "against": "benign"}),
        ("branch", "cnn", {"branch": "cnn"}),
        ("branch", "swin", {"branch": "swin"}),
        ("method", "gradcam++", {"method": "gradcam++"}),
        ("method", "eigencam", {"method": "eigencam"}),
    ):
        before = answered.page.locator(f"#{control}").input_value()
        answered.select(control, value)
        drawn.append(answered.seen())
        assert_looks_like(drawn[-1], overlay(service, answered, **query))
        answered.select(control, before)
        answered.select(control, value)
        answered.select(control, before)
        questions += 1
        assert len(answered.asked("explain")) == questions, "asked again what was known"
    assert all((one != another).any() for one, another in combinations(drawn, 2))
    assert len(answered.asked("predict")) == 1


def test_a_method_of_no_class_takes_none(answered: Visit) -> None:
    answered.select("method", "eigencam")
    expect(answered.page.locator("#target")).to_be_disabled()
    expect(answered.page.locator("#against")).to_be_disabled()
    assert "of no class" in answered.text("#caption")
    answered.select("method", "hirescam")
    expect(answered.page.locator("#target")).to_be_enabled()
    expect(answered.page.locator("#target")).to_have_value("malignant")


def test_the_finer_map_is_the_services(answered: Visit, service: httpx.Client) -> None:
    answered.check("detail")
    query = {"prediction_id": answered.prediction_id, "detail": "fine", "format": "json"}
    rows, columns = service.get("/explain", params=query).json()["shape"]
    assert f"{rows} × {columns} cells" in answered.text("#caption")
    assert_looks_like(answered.seen(), overlay(service, answered, detail="fine"))


def test_sliders_and_colours_draw_as_the_service_does_and_send_nothing(answered: Visit, service: httpx.Client) -> None:
    sent, first = len(answered.requests), answered.seen()
    moves: list[tuple[str, int, dict[str, Any]]] = [
        ("opacity", 100, {"alpha_max": 1.0}),
        ("opacity", 0, {"alpha_max": 0.0}),
        ("threshold", 40, {"threshold": 0.4}),
        ("contour", 50, {"contour": 0.5}),
    ]
    for control, value, query in moves:
        before = answered.page.locator(f"#{control}").input_value()
        answered.slide(control, value)
        assert_looks_like(answered.seen(), overlay(service, answered, **query))
        assert (answered.seen() != first).any()
        answered.slide(control, int(before))
    answered.slide("opacity", 100)
    for colormap in COLORMAPS:
        answered.select("colormap", colormap)
        assert_looks_like(answered.seen(), overlay(service, answered, colormap=colormap, alpha_max=1.0))
        warned = "colour-blind" in answered.text(f"#colormap option[value={colormap}]")
        assert warned == (colormap in ("turbo", "jet"))
    assert len(answered.requests) == sent


def test_branches_are_side_by_side_on_one_scale(answered: Visit, service: httpx.Client) -> None:
    answered.view("branches")
    highs, cells = {}, {}
    for branch in ("cnn", "swin", "fusion"):
        query = {"prediction_id": answered.prediction_id, "branch": branch, "format": "json"}
        answer = service.get("/explain", params=query).json()
        highs[branch], cells[branch] = answer["legend"]["high"], math.prod(answer["shape"])
    assert cells["cnn"] < cells["fusion"]  # a cell of the coarse grid holds what several of the fine one hold
    highs = {branch: high * cells[branch] / cells["fusion"] for branch, high in highs.items()}
    assert float(answered.text("#bar-high")) == pytest.approx(max(highs.values()), rel=0.005)
    captions = answered.page.locator("#panels figcaption").all_inner_texts()
    assert captions == ["the CNN branch", "the Swin branch", "both branches together"]
    expect(answered.page.locator("#stage")).to_be_hidden()
    # The Swin hardly moves this score: on its own scale its panel would be as colourful as the others.
    bare = service.get(f"/predictions/{answered.prediction_id}/picture").content
    assert highs["swin"] < 0.2 * highs["cnn"]
    assert_looks_like(answered.seen("#panels figure:nth-child(2) .pane"), bare)
    largest = max(highs, key=lambda branch: highs[branch])
    place = ["cnn", "swin", "fusion"].index(largest) + 1
    assert_looks_like(
        answered.seen(f"#panels figure:nth-child({place}) .pane"), overlay(service, answered, branch=largest)
    )


def test_shares_and_completeness_are_said_in_words(answered: Visit, service: httpx.Client) -> None:
    answered.select("method", "integrated")
    query = {"prediction_id": answered.prediction_id, "method": "integrated", "format": "json"}
    told = service.get("/explain", params=query).json()
    words = answered.text("#sentences")
    share = told["branches"]["cnn"]["share"]
    assert f"{100 * share:.0f} % of the evidence, for and against, comes from the CNN branch" in words
    for branch, name in (("cnn", "The CNN branch"), ("swin", "The Swin branch")):
        value = told["branches"][branch]["shapley_value"]
        verb = "adds" if value > 0 else "takes"
        assert f"{name} {verb} {abs(value):.3g} logits" in words
    assert f"{told['score'] - told['reference_score']:.3g} logits, to within" in words
    assert all(note in words for note in told["notes"])
    heatmap = told["heatmap"]
    peak = max(max(row) for row in heatmap)
    assert f"{peak:.3g} logits" in answered.text("#caption")
    answered.page.locator("#values summary").click()
    cells = answered.page.locator("#values th[scope=row] ~ td").all_inner_texts()
    assert [float(cell) for cell in cells] == pytest.approx([value for row in heatmap for value in row], rel=0.01)


def test_without_positive_evidence_it_is_said_and_nothing_is_painted(answered: Visit, service: httpx.Client) -> None:
    answered.choose(EXAMPLES / "disagreement.webp")
    answered.wait()
    answered.select("method", "integrated")
    answered.select("target", "benign")
    answered.select("branch", "swin")
    of_swin = {"method": "integrated", "target": "benign", "branch": "swin"}
    told = service.get("/explain", params={"prediction_id": answered.prediction_id, "format": "json", **of_swin})
    assert told.json()["no_positive_evidence"], "the drawn picture is no longer one to test this with"
    assert "Nothing in the picture speaks for benign in the Swin branch" in answered.text("#caption")
    bare = service.get(f"/predictions/{answered.prediction_id}/picture").content
    assert_looks_like(answered.seen(), bare)
    expect(answered.page.locator("#bar")).to_be_hidden()
    answered.select("branch", "cnn")  # which speaks for it
    assert_looks_like(answered.seen(), overlay(service, answered, **{**of_swin, "branch": "cnn"}))
    expect(answered.page.locator("#bar")).to_be_visible()


def test_the_map_can_be_drawn_aside_and_the_picture_zoomed(answered: Visit) -> None:
    whole = answered.page.locator("#stage .pane").bounding_box()
    answered.slide("reveal", 25)
    assert "inset(0px 75% 0px 0px)" in answered.page.locator("#stage canvas").evaluate("(map) => map.style.clipPath")
    for _ in range(3):
        answered.page.locator("#zoom-in").click()
    zoomed = answered.page.locator("#stage .pane").bounding_box()
    assert whole and zoomed and zoomed["width"] == pytest.approx(3 * whole["width"], rel=0.01)
    assert answered.text("#zoom") == "3×"
    middle = answered.page.locator("#stage").evaluate("(s) => [s.scrollLeft + s.clientWidth / 2, s.scrollWidth / 2]")
    assert middle[0] == pytest.approx(middle[1], abs=2)
    answered.choose(EXAMPLES / "drawn.webp")
    answered.wait()
    assert answered.text("#zoom") == "1×"


def test_a_picture_that_is_not_square_is_drawn_where_the_model_looked(visit: Visit, service: httpx.Client) -> None:
    visit.choose(("wide.png", png_bytes(600, 300)))
    visit.wait()
    drawn = overlay(service, visit)
    seen = (slice(3, -3), slice(153, 447))  # without the line around it
    assert_looks_like(visit.seen()[seen], drawn, seen)
    visit.slide("contour", 50)
    assert_looks_like(visit.seen()[seen], overlay(service, visit, contour=0.5), seen)


def test_nothing_of_one_picture_is_left_at_another(answered: Visit) -> None:
    answered.choose(("notes.txt", b"no picture"))
    answered.settle()
    answered.picture("ragged.webp").click()
    answered.wait()
    answered.view("branches")
    late = answered.hold("**/explain?*detail=fine*")
    answered.page.locator("#detail").check()
    late.wait(3)
    expect(answered.page.locator("#explaining")).to_have_text("Explaining…")
    answered.picture("notes.txt").click()
    assert_shows_no_picture(answered)
    late.release()
    assert_shows_no_picture(answered)
    answered.picture("ragged.webp").click()
    answered.wait()
    expect(answered.page.locator("#panels")).to_be_visible()


def assert_shows_no_picture(visit: Visit) -> None:
    """What was chosen is no picture, which is all that the page says."""
    visit.settle()
    for id in ("caption", "provenance", "sentences", "explaining"):
        expect(visit.page.locator(f"#{id}")).to_be_empty()
    expect(visit.page.locator("#panels")).to_be_hidden()
    expect(visit.page.locator("#values")).to_be_hidden()
    assert visit.page.locator("#stage img").get_attribute("src") is None
    expect(visit.page.locator("#problem")).to_contain_text("no picture in a known format")


def test_only_the_latest_question_is_shown(answered: Visit) -> None:
    late = answered.hold("**/explain?*branch=cnn*")
    answered.page.locator("#branch").select_option("cnn")
    late.wait()
    answered.select("branch", "swin")  # which is drawn without waiting for the other
    seen, method = answered.seen(), answered.page.locator("#method").input_value()
    late.release()
    answered.select("method", "gradcam")
    answered.select("method", method)
    assert "in the Swin branch" in answered.text("#caption")
    assert (answered.seen() == seen).all()


def test_a_model_of_one_branch_offers_no_more_than_it_has(
    visit_of: Callable[[httpx.Client], Visit], tmp_path: Path
) -> None:
    from tests.support.bundles import write_tiny_bundle  # behind the import hook

    bundle = write_tiny_bundle(tmp_path / "cnn", fusion="cnn")
    with serving(Settings(bundle=bundle, deadline_s=PATIENCE_S)) as service:
        visit = visit_of(service)
        visit.choose(RAGGED)
        visit.wait()
        expect(visit.page.locator("#views label:has([value=branches])")).to_be_hidden()
        expect(visit.page.locator("#views label:has([value=tokens])")).to_be_hidden()
        expect(visit.page.locator("#branch")).to_be_hidden()
        assert "%" not in visit.text("#sentences"), "a single branch has no share"
        assert "in the CNN branch" in visit.text("#caption")
        assert "Both" not in visit.text("#sentences") and "The map adds up" in visit.text("#sentences")
