"""The page below a prefix, behind a real proxy: one that removes the prefix, and one that does not."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from app.settings import Settings
from tests.support.asking import links_of
from tests.support.programs import tool
from tests.support.serving import serving
from tests.support.visit import PATIENCE_S, Visit
from tests.support.waiting import wait_until
from tests.support.wire import accepts
from tests.web.conftest import EXAMPLES

CADDYFILE = """{{
	admin off
	auto_https off
}}
http://127.0.0.1:{port} {{
	redir /lens /lens/
	{handle} /lens/* {{
		reverse_proxy 127.0.0.1:{upstream}
	}}
	respond "Nothing is here." 404
}}
"""


@pytest.fixture(scope="module")
def below(browser: Browser, tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A client of a service that is reached below the prefix."""
    with serving(Settings(bundle=tiny_bundle, root_path="/lens", deadline_s=PATIENCE_S)) as client:
        yield client


@contextmanager
def proxied(handle: str, upstream: int | None, folder: Path) -> Iterator[httpx.Client]:
    """A client of Caddy in front of the service. `handle_path` removes the prefix, `handle` does not."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (file := folder / "Caddyfile").write_text(CADDYFILE.format(port=port, handle=handle, upstream=upstream))
    with subprocess.Popen([tool("caddy"), "run", "--config", file], stderr=subprocess.DEVNULL) as caddy:
        try:
            wait_until(lambda: accepts(port))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/lens/", timeout=60, trust_env=False) as client:
                yield client
        finally:
            caddy.kill()


@pytest.mark.parametrize("handle", ["handle_path", "handle"])
def test_the_page_works_below_a_prefix(
    visit_of: Callable[[httpx.Client], Visit], below: httpx.Client, tmp_path: Path, handle: str
) -> None:
    with proxied(handle, below.base_url.port, tmp_path) as client:
        visit = visit_of(client)
        visit.page.goto(str(client.base_url).rstrip("/"))  # without the slash, as people write it
        expect(visit.page).to_have_url(str(client.base_url))
        visit.choose(EXAMPLES / "ragged.webp")
        visit.wait()
        visit.view("branches")
        expect(visit.page.locator("#panels figcaption")).to_have_count(3)
        visit.view("evidence")
        saved = visit.save("png").path().read_bytes()
        assert saved.startswith(b"\x89PNG")
        assert f"{client.base_url}explain?" in visit.copied("curl")
        with visit.page.context.expect_page() as opened:
            visit.page.locator("#docs").click()
        assert opened.value.url == f"{client.base_url}docs"
        document = client.get("openapi.json").json()
        assert document["servers"] == [{"url": "/lens"}]
        picture = {"file": ("a.webp", (EXAMPLES / "drawn.webp").read_bytes())}
        links = links_of(client.post("predict", files=picture).json())
        assert all(client.get(client.base_url.join(link)).status_code == 200 for link in links)
        visit.page.reload()
        visit.page.locator("#strip button").click()
        visit.wait()
        refused = {
            request.url for request in visit.requests if "/lens" not in request.url and "blob:" not in request.url
        }
        assert refused - {"data:,"} == set()
