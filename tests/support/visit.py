"""A visit to the page: what a user does there, what they see, and what went over the wire."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Download,
    Locator,
    Page,
    Playwright,
    Request,
    Route,
    expect,
)

# The longest wait for anything in the page, and the services' deadline: only a failure takes so long, on any machine.
PATIENCE_S = 300
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WATCH = Path(__file__).with_name("watch.js")
# What the browser itself writes about an answer that is an error, which the page tells in words.
_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
# The picture with the map over it, as it is seen, at the size in which the service draws it.
_SEEN = """(pane) => {
  const picture = pane.querySelector("img");
  const map = pane.querySelector("canvas");
  const seen = pane.querySelector(".seen");
  const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const part = (length) => parseFloat(length) / 100;
  context.drawImage(map, part(seen.style.left) * canvas.width, part(seen.style.top) * canvas.height,
    part(seen.style.width) * canvas.width, part(seen.style.height) * canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
  return [canvas.width, canvas.height, btoa(text)];
}"""


def launch(playwright: Playwright, chromium: str) -> Browser:
    """Chromium without a window."""
    expect.set_options(timeout=PATIENCE_S * 1000)
    return playwright.chromium.launch(executable_path=chromium, args=OPTIONS)


def launch_blocked(browser: Browser, chromium: str, folder: Path) -> BrowserContext:
    """Another Chromium, with its profile in an empty folder, whose user forbids all sites to store anything."""
    (profile := folder / "Default").mkdir()
    forbidden = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (profile / "Preferences").write_text(json.dumps(forbidden))
    return browser.browser_type.launch_persistent_context(str(folder), executable_path=chromium, args=OPTIONS)


def listen(page: Page, heard: Callable[[], bool], failure: str) -> None:
    """Until a page's events have made it true: they are delivered during calls alone."""
    until = time.monotonic() + PATIENCE_S
    while not heard():
        assert time.monotonic() < until, failure
        page.evaluate("0")


class Held:
    """Requests of a page that do not reach the service until they are let go."""

    def __init__(self, page: Page, pattern: str) -> None:
        self._page, self._pattern = page, pattern
        self._routes: list[Route] = []
        self._are_let_go = False
        page.route(pattern, self._on_route)

    def _on_route(self, route: Route) -> None:
        if self._are_let_go:
            route.continue_()
        else:
            self._routes.append(route)

    def wait(self, count: int = 1) -> None:
        """Until so many are held."""
        listen(self._page, lambda: len(self._routes) >= count, f"not {count} requests to {self._pattern}")

    def release(self) -> None:
        """Let them go, and wait until they are answered, but for those that the page has given up."""
        self._are_let_go = True
        waited_for = [route for route in self._routes if route.request.failure is None]
        for route in waited_for:
            route.continue_()
        for route in waited_for:
            response = route.request.response()
            assert response is not None
            response.finished()


class Visit:
    """One tab with the page.

    What the page shows is read while its view is not busy. The view is busy from the user's action until what was asked
    is there and drawn; `watch.js` sees to it that this is true.
    """

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[Request] = []
        self._complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.set_default_timeout(PATIENCE_S * 1000)
        page.add_init_script(path=WATCH)
        page.goto(address)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _REFUSED.match(message.text):
            self._complaints.append(message.text)

    def forgive(self, complaint: str) -> None:
        """Something that the browser complains about, or is about to, was meant to go wrong."""
        listen(self.page, lambda: any(complaint in one for one in self._complaints), f"no complaint about {complaint}")
        self._complaints = [one for one in self._complaints if complaint not in one]

    def assert_nothing_went_wrong(self) -> None:
        """No error in the console, and no request to another host."""
        self.page.evaluate("0")  # what has happened is heard of by then
        assert self._complaints == []
        own = urlsplit(self.address).netloc
        others = {request.url for request in self.requests if urlsplit(request.url).scheme not in ("blob", "data")}
        assert {urlsplit(url).netloc for url in others} <= {own}

    def asked(self, *routes: str) -> list[dict[str, str]]:
        """The parameters of all requests to these routes so far."""
        paths = [urlsplit(request.url) for request in self.requests]
        return [
            {name: values[0] for name, values in parse_qs(path.query).items()}
            for path in paths
            if path.path.strip("/") in routes
        ]

    @property
    def prediction_id(self) -> str:
        """The id of the prediction that was explained last."""
        return self.asked("explain", "attention")[-1]["prediction_id"]

    def choose(self, *pictures: Path | tuple[str, bytes]) -> None:
        """Choose pictures by the file dialog."""
        files = [
            {"name": one.name, "mimeType": "", "buffer": one.read_bytes()}
            if isinstance(one, Path)
            else {"name": one[0], "mimeType": "", "buffer": one[1]}
            for one in pictures
        ]
        self.page.locator("#choose").set_input_files(files)  # type: ignore[arg-type]

    def wait(self) -> None:
        """Until the current picture is answered and explained."""
        self.settle()
        state = self.page.locator("#result").get_attribute("data-state")
        assert state == "answered" and self.text("#caption"), (state, self.text("#problem"))

    def settle(self) -> None:
        """Until what was asked is there and drawn, or has failed."""
        expect(self.page.locator("#view:not([aria-busy])")).to_have_count(1)

    def hold(self, pattern: str) -> Held:
        """Keep requests of these addresses from the service."""
        return Held(self.page, pattern)

    def picture(self, name: str) -> Locator:
        """A picture in the strip."""
        return self.page.locator("#strip button", has_text=name)

    def view(self, name: str) -> None:
        """Choose a view: evidence, branches or tokens."""
        self.page.locator(f"#views label:has([value={name}])").click()
        self.page.mouse.move(0, 0)  # or another layout could bring a token's cell under the pointer
        self.settle()

    def point(self, cell: int) -> None:
        """Point at a token's cell."""
        self.page.locator(f"[data-cell='{cell}']").hover()
        self.settle()

    def check(self, control: str) -> None:
        """Tick a box."""
        self.page.locator(f"#{control}").check()
        self.settle()

    def press(self, key: str, times: int = 1) -> None:
        """Press a key."""
        for _ in range(times):
            self.page.keyboard.press(key)
        self.settle()

    def select(self, control: str, value: str) -> None:
        """Choose in one of the lists."""
        self.page.locator(f"#{control}").select_option(value)
        self.settle()

    def slide(self, control: str, value: int) -> None:
        """Move a slider."""
        self.page.locator(f"#{control}").fill(str(value))
        self.settle()

    def enter(self, key: str) -> None:
        """Give the page a key."""
        self.page.locator("#key").fill(key)
        self.page.keyboard.press("Enter")

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.page.locator(selector).inner_text()

    def texts(self, *selectors: str) -> list[str]:
        """What elements say at one moment."""
        said: list[str] = self.page.evaluate(
            "(selectors) => selectors.map((selector) => document.querySelector(selector).innerText)", selectors
        )
        return said

    def seen(self, pane: str = "#stage .pane") -> np.ndarray:
        """The pixels of the picture with its map, in RGB."""
        width, height, encoded = self.page.locator(pane).evaluate(_SEEN)
        pixels = np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(height, width, 4)
        return pixels[..., :3].astype(int)

    def save(self, name: str) -> Download:
        """Save the overlay, the map or the record: png, npy or json."""
        with self.page.expect_download() as download:
            self.page.locator(f"[data-save={name}]").click()
        return download.value

    def copied(self, language: str) -> str:
        """A command that was copied: curl or python."""
        self.page.locator(f"[data-copy={language}]").click()
        expect(self.page.locator("#status")).to_have_text("Copied.")
        return str(self.page.evaluate("navigator.clipboard.readText()"))


def assert_looks_like(seen: np.ndarray, overlay: bytes, part: tuple[slice, slice] = (slice(None), slice(None))) -> None:
    """The same picture, or part of it, but for rounding, which may move a contour line here and there by a pixel."""
    drawn = np.asarray(Image.open(io.BytesIO(overlay)).convert("RGB")).astype(int)[part]
    assert seen.shape == drawn.shape
    difference = np.abs(seen - drawn).max(axis=-1)
    assert np.percentile(difference, 99.9) <= 6 and difference.mean() < 1, (difference.max(), difference.mean())
