"""The documentation's pictures of answers and of the page: `python -m scripts.screenshots` writes docs/images/."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import httpx
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser, sync_playwright

from tests.support.served_process import ROOT, environment, serving
from tests.support.visit import Visit, launch

IMAGES = ROOT / "docs" / "images"
OUT = IMAGES / "page"
RAGGED = ROOT / "app" / "web" / "examples" / "ragged.webp"
SIDE_PX, GAP_PX, TITLE_PX = 200, 8, 22
MAPS: dict[str, tuple[str, dict[str, str]]] = {
    "both branches": ("/explain", {}),
    "CNN": ("/explain", {"branch": "cnn"}),
    "Swin": ("/explain", {"branch": "swin"}),
    "attention": ("/attention", {}),
}
SIZE = {"width": 1240, "height": 860}


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("Chromium is not installed: apt install chromium")
    OUT.mkdir(exist_ok=True)
    with serving(ROOT, environment(ROOT)) as served, sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        take(browser, served.address)
        browser.close()
        draw_answers(served.address)


def draw_answers(address: str) -> None:
    """The maps of the first drawn picture in a row, and the branches' maps of one that they do not agree on."""

    def ask(name: str, path: str, **query: str | int) -> bytes:
        file = RAGGED.with_name(name).read_bytes()
        return httpx.post(address + path, params=query, files={"file": file}, timeout=60).raise_for_status().content

    width = (SIDE_PX + GAP_PX) * (len(MAPS) + 1) - GAP_PX
    row = Image.new("RGB", (width, TITLE_PX + SIDE_PX), "white")
    pen, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    files = {"drawn picture": RAGGED.with_name("drawn.webp").read_bytes()}
    for title, (path, query) in MAPS.items():
        files[title] = ask("drawn.webp", path, size=SIDE_PX, **query)
    for n, (title, file) in enumerate(files.items()):
        with Image.open(io.BytesIO(file)) as panel:
            row.paste(panel.convert("RGB").resize((SIDE_PX, SIDE_PX)), (n * (SIDE_PX + GAP_PX), TITLE_PX))
        pen.text((n * (SIDE_PX + GAP_PX), 3), title, fill="black", font=font)
    row.save(IMAGES / "overlay.png", optimize=True)
    compared = ask("disagreement.webp", "/explain", target="malignant", compare="cnn,swin,fusion", size=320)
    (IMAGES / "disagreement.png").write_bytes(compared)


def take(browser: Browser, address: str) -> None:
    """Every state that the documentation shows."""
    visit = Visit(browser.new_context(viewport={**SIZE}).new_page(), address)  # type: ignore[arg-type]
    for name in ("drawn.webp", "disagreement.webp"):
        visit.choose(RAGGED.with_name(name))
        visit.wait()
    visit.choose(RAGGED)
    visit.wait()
    visit.slide("contour", 50)
    write(visit, "evidence")
    visit.view("branches")
    write(visit, "branches")
    visit.page.emulate_media(color_scheme="dark")
    visit.view("tokens")
    visit.point(16)
    write(visit, "tokens")
    visit.page.emulate_media(color_scheme="light")
    visit.view("evidence")
    visit.page.set_viewport_size({"width": 390, "height": 844})
    write(visit, "phone")
    visit.page.emulate_media(media="print")
    visit.page.set_viewport_size({"width": 794, "height": 1123})  # A4 at 96 dpi
    write(visit, "report")


def write(visit: Visit, name: str) -> Path:
    """The window as it is now."""
    visit.page.evaluate("scrollTo(0, 0)")
    path = OUT / f"{name}.webp"
    with Image.open(io.BytesIO(visit.page.screenshot())) as shot:
        shot.convert("RGB").save(path, quality=82, method=6)
    return path


if __name__ == "__main__":
    main()
