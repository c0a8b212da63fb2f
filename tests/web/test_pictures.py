"""Pictures come in by every way, are shown as the model saw them, and errors are told in the service's own words."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from app.server.provision import add_key
from app.settings import Settings
from reliability.swaps import Versions
from tests.support.asking import scene
from tests.support.pictures import encoded, exif
from tests.support.serving import serving
from tests.support.visit import PATIENCE_S, Visit
from tests.web.conftest import EXAMPLES, ROOT

DRAWN = EXAMPLES / "drawn.webp"
_FILES = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/webp" }));
  return transfer;
}"""


def predicted(service: httpx.Client, picture: bytes) -> dict[str, Any]:
    """The service's own answer."""
    answer: dict[str, Any] = service.post("/predict", files={"file": ("picture", picture)}).json()
    return answer


def assert_shows(visit: Visit, answer: dict[str, Any]) -> None:
    """The page says what the service does."""
    visit.wait()
    expect(visit.page.locator("#label")).to_have_text(answer["label"])
    shown = visit.page.locator("#probabilities li").all_inner_texts()
    assert [row.split() for row in shown] == [
        [one["label"], f"{100 * one['probability']:.1f}", "%"] for one in answer["probabilities"]
    ]
    meters = visit.page.locator("#probabilities meter").evaluate_all("(all) => all.map(({ value }) => value)")
    assert meters == pytest.approx([one["probability"] for one in answer["probabilities"]])


def test_a_chosen_picture_is_answered_as_by_the_service(visit: Visit, service: httpx.Client) -> None:
    visit.choose(DRAWN)
    assert_shows(visit, predicted(service, DRAWN.read_bytes()))
    card = service.get("/model").json()
    rule = visit.text("#rule")
    assert (
        f"{card['decision']['positive']} from a probability of {100 * card['decision']['threshold']:.0f} % on" in rule
    )
    assert f"calibrated. Fitted to: {card['calibration']['chosen_on']}." in rule
    assert visit.text("#model-name").startswith(f"{card['name']} {card['version']}")
    assert all(note in visit.text("#model-notes") for note in card["notes"])


def test_a_dropped_picture_is_answered(visit: Visit, service: httpx.Client) -> None:
    files = visit.page.evaluate_handle(_FILES, [base64.b64encode(DRAWN.read_bytes()).decode(), "dropped.webp"])
    for event in ("dragenter", "dragover"):
        visit.page.dispatch_event("#intake", event, {"dataTransfer": files})
    expect(visit.page.locator("#dropping")).to_be_visible()
    visit.page.dispatch_event("#intake", "drop", {"dataTransfer": files})
    expect(visit.page.locator("#dropping")).to_be_hidden()
    assert_shows(visit, predicted(service, DRAWN.read_bytes()))
    assert visit.text("#picture-name") == "dropped.webp"


def test_a_pasted_picture_is_answered(visit: Visit, service: httpx.Client) -> None:
    files = visit.page.evaluate_handle(_FILES, [base64.b64encode(DRAWN.read_bytes()).decode(), "pasted.webp"])
    visit.page.evaluate(
        "(files) => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: files, bubbles: true }))",
        files,
    )
    assert_shows(visit, predicted(service, DRAWN.read_bytes()))


def test_the_drawn_examples_are_answered(visit: Visit, service: httpx.Client) -> None:
    for number, example in enumerate(visit.page.locator("[data-example]").all()):
        name = (example.get_attribute("data-example") or "").rpartition("/")[2]
        example.click()
        assert_shows(visit, predicted(service, (EXAMPLES / name).read_bytes()))
        assert visit.text("#picture-name") == name
        expect(visit.page.locator("#strip li")).to_have_count(number + 1)


def test_several_pictures_make_a_strip_and_are_answered_in_turn(visit: Visit, service: httpx.Client) -> None:
    names = ["ragged.webp", "drawn.webp", "disagreement.webp"]
    visit.choose(*(EXAMPLES / name for name in names))
    expect(visit.page.locator("#strip [data-state=answered]")).to_have_count(3)
    shown = visit.page.locator("#strip button").all_inner_texts()
    for name, text in zip(reversed(names), shown, strict=True):
        answer = predicted(service, (EXAMPLES / name).read_bytes())
        probability = next(one["probability"] for one in answer["probabilities"] if one["label"] == answer["label"])
        doubt = ", refer" if answer["trust"]["decision"] == "refer" else ""
        assert text.split("\n") == [f"{answer['label']} {100 * probability:.0f} %{doubt}", name]
    assert visit.text("#picture-name") == names[0]
    visit.picture("drawn.webp").click()
    assert_shows(visit, predicted(service, DRAWN.read_bytes()))


@pytest.mark.parametrize(
    ("name", "content"),
    [("broken.webp", DRAWN.read_bytes()[:3000]), ("notes.txt", b"no picture at all"), ("empty.png", b"")],
)
def test_what_cannot_be_read_is_told_in_the_services_words(
    visit: Visit, service: httpx.Client, name: str, content: bytes
) -> None:
    refused = service.post("/predict", files={"file": (name, content)})
    assert 400 <= refused.status_code < 500
    visit.choose(DRAWN, (name, content))
    visit.wait()
    expect(visit.page.locator("#strip [data-state=failed]")).to_have_count(1)
    visit.picture(name).click()
    visit.settle()
    expect(visit.page.locator("#problem")).to_have_text(refused.json()["detail"])
    expect(visit.page.locator("#controls")).to_be_hidden()
    assert visit.page.locator("#stage img").get_attribute("src") is None or name == "broken.webp"
    visit.picture("drawn.webp").click()
    expect(visit.page.locator("#problem")).to_be_empty()
    assert_shows(visit, predicted(service, DRAWN.read_bytes()))


def test_a_service_that_is_away_is_told_and_tried_again(visit: Visit) -> None:
    visit.page.route("**/predict", lambda route: route.abort("connectionrefused"), times=1)
    visit.choose(DRAWN)
    expect(visit.page.locator("#problem")).to_contain_text("cannot be reached")
    visit.page.locator("#again").click()
    visit.wait()
    expect(visit.page.locator("#problem")).to_be_empty()
    expect(visit.page.locator("#again")).to_be_hidden()
    visit.forgive("net::ERR_CONNECTION_REFUSED")


def test_an_example_that_does_not_come_is_told_of(visit: Visit) -> None:
    visit.page.route("**/examples/*", lambda route: route.abort("connectionrefused"))
    visit.page.locator("[data-example]").first.click()
    expect(visit.page.locator("#problem")).to_contain_text("cannot be reached")
    visit.forgive("net::ERR_CONNECTION_REFUSED")


def test_the_picture_is_shown_before_it_is_answered(visit: Visit) -> None:
    sent = visit.hold("**/predict")
    visit.choose(DRAWN)
    sent.wait()
    picture = visit.page.locator("#stage img")
    expect(picture).to_have_js_property("naturalWidth", 448)
    expect(visit.page.locator("#status")).to_have_text("Looking at the picture…")
    expect(visit.page.locator("#answer")).to_be_hidden()
    sent.release()
    visit.wait()
    expect(visit.page.locator("#status")).to_be_empty()


def turned() -> bytes:
    """A JPEG that is stored lying on its side."""
    return encoded(scene(90, 60), "JPEG", quality=95, exif=exif(6))


def moving() -> bytes:
    """A GIF whose second frame is white."""
    return encoded(scene(90, 60), "GIF", save_all=True, append_images=[Image.new("RGB", (90, 60), "white")])


@pytest.mark.parametrize(
    ("name", "content", "size"),
    [("turned.jpg", turned(), (60, 90)), ("moving.gif", moving(), (90, 60)),
     ("deep.tiff", encoded(scene(90, 60), "TIFF"), (90, 60))],
)  # fmt: skip
def test_what_is_shown_is_what_the_model_saw(
    visit: Visit, service: httpx.Client, name: str, content: bytes, size: tuple[int, int]
) -> None:
    visit.choose((name, content))
    visit.wait()
    picture = visit.page.locator("#stage img")
    expect(picture).to_have_js_property("naturalWidth", size[0])
    expect(picture).to_have_js_property("naturalHeight", size[1])
    visit.slide("opacity", 0)
    link = predicted(service, content)["links"]["picture"]
    kept = np.asarray(Image.open(io.BytesIO(service.get(link).content))).astype(int)
    assert np.abs(visit.seen() - kept).max() <= 3
    seen = predicted(service, content)["picture"]["seen"]
    box = visit.page.locator("#stage .seen").evaluate(
        "({ style }) => [style.left, style.top, style.width, style.height]"
    )
    expected = [
        100 * seen[f"{edge}_px"] / size[axis] for edge, axis in (("left", 0), ("top", 1), ("width", 0), ("height", 1))
    ]
    assert [float(length.rstrip("%")) for length in box] == pytest.approx(expected, abs=0.01)


def test_notes_about_the_picture_are_shown(visit: Visit, service: httpx.Client) -> None:
    notes = predicted(service, moving())["picture"]["notes"]
    visit.choose(("moving.gif", moving()))
    visit.wait()
    assert notes and visit.page.locator("#picture-notes li").all_inner_texts() == notes


def test_real_and_awkward_pictures_are_shown_as_the_service_understood_them(
    visit: Visit, service: httpx.Client, shared_data: Path
) -> None:
    for path in sorted((shared_data / "awkward").iterdir()):
        if path.suffix in (".md", ".txt"):
            continue
        answer = service.post("/predict", files={"file": (path.name, path.read_bytes())})
        visit.choose(path)
        visit.settle()
        assert visit.text("#picture-name") == path.name
        if answer.status_code != 200:
            expect(visit.page.locator("#problem")).to_have_text(answer.json()["detail"])
            continue
        assert_shows(visit, answer.json())
        info = answer.json()["picture"]
        width, height = visit.page.locator("#stage img").evaluate("(img) => [img.naturalWidth, img.naturalHeight]")
        assert width / height == pytest.approx(info["width_px"] / info["height_px"], rel=0.02)


def test_of_many_classes_the_first_ten_are_shown(
    visit_of: Callable[[httpx.Client], Visit], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.support.bundles import write_tiny_bundle  # behind the import hook

    bundle = write_tiny_bundle(tmp_path_factory.mktemp("many"), classes=12)
    with serving(Settings(bundle=bundle, deadline_s=PATIENCE_S)) as service:
        visit = visit_of(service)
        expect(visit.page.locator("#model-name")).to_have_text("tiny 1: 12 classes")
        visit.choose(DRAWN)
        visit.wait()
        rows = visit.page.locator("#probabilities li")
        expect(rows).to_have_count(11)
        expect(rows.last).to_contain_text("2 others")
        meters = visit.page.locator("#probabilities meter").evaluate_all("(all) => all.map(({ value }) => value)")
        assert sum(meters) == pytest.approx(1)


@pytest.mark.slow
def test_a_new_model_is_told_of_while_the_page_is_open(
    visit_of: Callable[[httpx.Client], Visit], tmp_path: Path
) -> None:
    """The page has a key, so that another one may have the bundle loaded anew."""
    versions, keys = Versions(ROOT / "weights" / "demo", tmp_path), tmp_path / "keys.toml"
    key, admin = add_key(keys, "page", ["predict"]), add_key(keys, "admin", ["admin"])
    with serving(Settings(bundle=versions.link, keys=keys, deadline_s=PATIENCE_S)) as service:
        visit = visit_of(service)
        visit.enter(key)
        visit.choose(DRAWN)
        visit.wait()
        assert visit.text("#model-name").startswith("skin-demo swap-1")
        visit.select("colormap", "cividis")
        versions.turn_to(1)
        reloaded = service.post("/admin/reload", headers={"X-API-Key": admin}, timeout=PATIENCE_S)
        assert reloaded.json()["changed"], reloaded.text
        visit.choose(EXAMPLES / "ragged.webp")
        visit.wait()
        assert visit.text("#model-name").startswith("skin-demo swap-2")
        visit.picture("drawn.webp").click()
        visit.wait()  # explained by the model that made it
        assert visit.text("#rule") == "Answered by skin-demo swap-1."
        assert "Made by skin-demo swap-1" in visit.text("#provenance")
        expect(visit.page.locator("#colormap")).to_have_value("cividis")
