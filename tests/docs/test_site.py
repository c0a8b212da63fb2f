"""The documentation's website: it is built without a complaint, and needs nothing but its own files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import sync_playwright

from scripts.check_site import ROOT, faults, faults_of_markdown
from tests.support.programs import tool
from tests.support.visit import launch


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly from the files as they are."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    built = subprocess.run([tool("zensical"), "build", "--strict"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=site)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_link_leads_somewhere_and_nothing_comes_from_another_host(site: Path) -> None:
    assert list(faults(site)) == []


def test_the_readmes_links_lead_somewhere(site: Path) -> None:
    assert list(faults_of_markdown(ROOT / "README.md", site)) == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in navigation] == []


@pytest.mark.slow
def test_a_browser_asks_no_other_host(site: Path, address: str) -> None:
    requests, errors = list[str](), list[str]()
    with sync_playwright() as playwright:
        context = launch(playwright, tool("chromium")).new_context()
        context.on("request", lambda request: requests.append(request.url))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        files = sorted(file.relative_to(site).as_posix() for file in site.rglob("*.html"))
        tabs = {file: context.new_page() for file in files}
        for file, tab in tabs.items():
            tab.goto(f"{address}/{file}")
        for tab in tabs.values():
            tab.wait_for_load_state("networkidle")
        tabs["index.html"].bring_to_front()
        tabs["index.html"].keyboard.press("Control+k")
        tabs["index.html"].keyboard.type("completeness")
        tabs["index.html"].get_by_role("link", name="Explanations").first.wait_for()
    own = (f"{address}/", "data:", "blob:")
    assert [url for url in requests if not url.startswith(own)] == [] and errors == []


PAGE = '<h1 id="top">A page</h1><a href="other.html#there">to</a><img src="picture.png"><a href="https://else.where/">x</a>'
FAULTY = {
    '<a href="gone.html">': "gone.html does not exist",
    '<a href="other.html#gone">': "other.html#gone: there is no such heading",
    '<a href="#gone">': "#gone: there is no such heading",
    '<img src="gone.png">': "gone.png does not exist",
    '<img srcset="picture.png 1x, gone.png 2x">': "gone.png does not exist",
    '<script src="https://else.where/script.js"></script>': "https://else.where/script.js is loaded from another host",
    '<link rel="stylesheet" href="//else.where/style.css">': "//else.where/style.css is loaded from another host",
    "<style>@import 'https://else.where/a.css';</style>": "https://else.where/a.css is loaded from another host",
    '<p style="background: url(https://else.where/a.png)">': "https://else.where/a.png is loaded from another host",
    '<iframe src="https://else.where/"></iframe>': "https://else.where/ is loaded from another host",
}


@pytest.fixture
def tiny_site(tmp_path: Path) -> Path:
    """A site of two pages without a fault."""
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "other.html").write_text('<h2 id="there">There</h2><link rel="canonical" href="page.html">')
    (tmp_path / "picture.png").write_bytes(b"")
    assert list(faults(tmp_path)) == []
    return tmp_path


@pytest.mark.parametrize("markup", FAULTY)
def test_a_fault_is_found(tiny_site: Path, markup: str) -> None:
    (tiny_site / "page.html").write_text(PAGE + markup)
    assert list(faults(tiny_site)) == [f"page.html: {FAULTY[markup]}"]


def test_a_font_of_another_host_is_found(tiny_site: Path) -> None:
    (tiny_site / "style.css").write_text("@font-face { src: url('https://else.where/font.woff2') }")
    assert list(faults(tiny_site)) == ["style.css: https://else.where/font.woff2 is loaded from another host"]


def test_faults_of_a_readme_are_found(tiny_site: Path) -> None:
    (tiny_site / "docs").mkdir()
    (tiny_site / "docs" / "other.md").write_text("## There")
    readme = tiny_site / "README.md"
    readme.write_text("[a](docs/other.md#there) [b](docs/gone.md) [c](docs/other.md#gone) [d](https://x.y/) `[e](f)`")
    expected = ["README.md: docs/gone.md does not exist", "README.md: docs/other.md#gone: there is no such heading"]
    assert list(faults_of_markdown(readme, tiny_site)) == expected
