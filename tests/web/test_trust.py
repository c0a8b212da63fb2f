"""What the page says of how far an answer may be relied on: what the service says, before it says a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from app.drawing.png import encode_png
from tests.support.trusted import scenes, write_trusted
from tests.support.visit import Visit
from tests.web.conftest import EXAMPLES, started

NOISE = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
PICTURES = {"drawn.webp": None, "ragged.webp": None, "noise.png": NOISE, "black.png": NOISE // 255}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, image in PICTURES.items():
        if image is not None:
            (folder / name).write_bytes(encode_png(image))
    return {name: (EXAMPLES if image is None else folder) / name for name, image in PICTURES.items()}


def trust_of(service: httpx.Client, content: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = service.post("/predict", files={"file": content}).json()
    trust: dict[str, Any] = answer["trust"]
    return trust


@pytest.fixture(scope="module")
def trusting(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with a tiny bundle that refers only some pictures."""
    folder = tmp_path_factory.mktemp("trusting")
    bundle = write_trusted(tiny_bundle, folder / "bundle")
    with started(folder, FUSIONLENS_BUNDLE=str(bundle)) as client:
        yield client


def assert_says(visit: Visit, trust: dict[str, Any]) -> None:
    """The page says what the service does, and a referral above the class."""
    assert visit.page.locator("#reasons li").all_inner_texts() == [reason["detail"] for reason in trust["reasons"]]
    assert visit.page.locator("#possible li").all_inner_texts() == (trust["prediction_set"] or ["no class"])
    verdict = visit.page.locator("#verdict")
    if trust["decision"] == "answer":
        expect(verdict).to_be_hidden()
        return
    expect(verdict).to_have_text("Refer to a person:")
    boxes = [visit.page.locator(which).bounding_box() for which in ("#verdict", "#reasons", "#label", "#possible")]
    tops = [box["y"] for box in boxes if box is not None]
    assert len(tops) == len(boxes) and tops == sorted(tops)


def test_the_page_says_what_the_service_says(visit_of: Callable[[httpx.Client], Visit], trusting: httpx.Client) -> None:
    visit, said = visit_of(trusting), []
    for number, scene in enumerate(scenes(12, 2)):
        said.append(trust_of(trusting, content := encode_png(scene)))
        visit.choose((f"{number}.png", content))
        visit.wait()
        assert_says(visit, said[-1])
    assert {one["decision"] for one in said} == {"answer", "refer"}
    assert {len(one["prediction_set"]) for one in said} >= {1, 2}


@pytest.mark.parametrize("name", PICTURES)
def test_a_print_says_it_too(visit: Visit, service: httpx.Client, pictures: dict[str, Path], name: str) -> None:
    visit.choose(pictures[name])
    visit.wait()
    visit.page.emulate_media(media="print")
    assert_says(visit, trust_of(service, pictures[name].read_bytes()))
    visit.page.emulate_media(media="screen")


def test_a_picture_unlike_the_training_data_is_said_to_be_one(visit: Visit, pictures: dict[str, Path]) -> None:
    visit.choose(pictures["noise.png"])
    visit.wait()
    assert visit.text("#verdict") == "Refer to a person:"
    assert "unlike what the model was trained on" in visit.text("#reasons")


def test_of_an_answer_by_the_threshold_the_more_probable_class_is_named(visit: Visit, service: httpx.Client) -> None:
    benign, malignant = (Image.open(EXAMPLES / name).convert("RGB") for name in ("drawn.webp", "ragged.webp"))
    for share in np.linspace(0, 1, 21):  # from below the threshold to above one half
        content = encode_png(np.asarray(Image.blend(benign, malignant.resize(benign.size), float(share))))
        answer = service.post("/predict", files={"file": content}).json()
        if answer["label"] != (best := answer["probabilities"][0]["label"]):
            break
    visit.choose(("between.png", content))
    visit.wait()
    assert f"Here {best} is more probable" in visit.text("#rule")
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    assert "is more probable" not in visit.text("#rule")


def test_the_card_says_what_is_referred(visit: Visit, service: httpx.Client) -> None:
    visit.page.locator("#about-open").click()
    rule = service.get("/model").json()["trust"]
    said = visit.text("#about-rows")
    assert all(code.replace("_", " ") in said for code in rule["refers"])
    assert f"coverage of {100 * rule['coverage']:.0f} %" in said and rule["chosen_on"] in said


def test_a_bundle_without_the_part_promises_nothing(
    visit_of: Callable[[httpx.Client], Visit], tiny_bundle: Path, tmp_path: Path
) -> None:
    with started(tmp_path, FUSIONLENS_BUNDLE=str(tiny_bundle)) as client:
        visit = visit_of(client)
        visit.choose(EXAMPLES / "drawn.webp")
        visit.wait()
        for hidden in ("#verdict", "#reasons", "#possible"):
            expect(visit.page.locator(hidden)).to_be_hidden()
        visit.page.locator("#about-open").click()
        assert "it is not known when its answers can be relied on" in visit.text("#about-rows")
