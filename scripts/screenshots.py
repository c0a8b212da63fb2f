"""Pictures of the page for the documentation: `python -m scripts.screenshots` writes docs/images/page/."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.support.served_process import ROOT, environment, serving
from tests.support.visit import Visit, launch

OUT = ROOT / "docs" / "images" / "page"
RAGGED = ROOT / "app" / "web" / "examples" / "ragged.webp"
SIZE = {"width": 1240, "height": 860}


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("Chromium is not installed: apt install chromium")
    OUT.mkdir(exist_ok=True)
    with serving(ROOT, environment(ROOT)) as served, sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        take(browser, served.address)
        browser.close()


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
