"""The page's own files: small, of this host alone, and the same numbers as the code's."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from app.api.application import create_app
from app.files import WEB
from app.settings import Settings
from scripts.colormaps_js import MODULE, module
from tests.support.serving import serving_app

FILES = sorted(path for path in WEB.rglob("*") if path.is_file())
MOST_BYTES = 150_000


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < MOST_BYTES


def test_the_colours_are_the_codes() -> None:
    assert MODULE.read_text(encoding="utf-8") == module(), "colours have changed: run `make openapi` and commit"


def test_every_file_is_named_somewhere_and_other_hosts_only_with_their_digests() -> None:
    text = {path: path.read_text(encoding="utf-8") for path in FILES if path.suffix in (".html", ".js", ".css")}
    everything = "\n".join(text.values())
    for path in FILES:
        assert path.suffix == ".html" or path.name in everything, f"nothing uses {path.name}"
    for path, content in text.items():
        for imported in re.findall(r'from "\./([^"]+)"', content):
            assert (path.parent / imported).is_file()
        elsewhere = re.findall(r"<[^>]+https?://[^>]+>", content)
        assert len(elsewhere) == len(re.findall(r"https?://", content)) == (2 if path.name == "docs.html" else 0)
        assert all('integrity="sha384-' in element and "@5" in element for element in elsewhere)
        assert not re.search(r"\son\w+=\"|<script>|style=\"", content), "the security policy forbids it"


@pytest.fixture(scope="module")
def answers(tiny_bundle: Path) -> dict[str, httpx.Response]:
    """What the service answers for the page and its files."""
    app = create_app(Settings(bundle=tiny_bundle))
    with serving_app(app) as client:
        paths = ["/", *(f"/web/{path.relative_to(WEB).as_posix()}" for path in FILES)]
        return {path: client.get(path) for path in paths}


def test_a_browser_asks_whether_files_changed(answers: dict[str, httpx.Response]) -> None:
    for path, answer in answers.items():
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "no-cache", path
        assert answer.headers["etag"], path


def test_the_routes_are_described_where_the_public_host_cannot_be_reached(tiny_bundle: Path) -> None:
    with serving_app(create_app(Settings(bundle=tiny_bundle))) as client:
        answer = client.get("/docs")
        assert answer.status_code == 200
        assert "openapi.json" in answer.text and "cannot be reached" in answer.text
        policy = answer.headers["content-security-policy"]
        scripts = re.search(r"script-src ([^;]+);", policy)
        assert scripts and "unsafe" not in scripts[1]
        for link in re.findall(r'"(https?://[^"]+)"', answer.text):
            assert any(link.startswith(allowed) for allowed in policy.split() if allowed.startswith("https"))


def test_the_policy_allows_this_host_alone(answers: dict[str, httpx.Response]) -> None:
    policy = answers["/"].headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
