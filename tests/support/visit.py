"""A visit to the page: what a user does there, what they see, and what went over the wire."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Download, Page, Playwright, Request, expect

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
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    return playwright.chromium.launch(executable_path=chromium, args=options)


class Visit:
    """One tab with the page."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[Request] = []
        self._complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.set_default_timeout(20_000)
        page.goto(address)
        expect(page.locator("body")).to_be_visible()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _REFUSED.match(message.text):
            self._complaints.append(message.text)

    def forgive(self, complaint: str) -> None:
        """Something that the browser complains about was meant to go wrong."""
        self._complaints = [one for one in self._complaints if complaint not in one]

    def assert_nothing_went_wrong(self) -> None:
        """No error in the console, and no request to another host."""
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
        return self.asked("gradcam", "attention")[-1]["prediction_id"]

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
        expect(self.page.locator("#result[data-state=answered]")).to_be_visible()
        expect(self.page.locator("#caption")).not_to_be_empty()
        self.settle()

    def settle(self) -> None:
        """Until what was asked is there and drawn."""
        expect(self.page.locator("#view:not([aria-busy])")).to_have_count(1)
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def view(self, name: str) -> None:
        """Choose a view: evidence, branches or tokens."""
        self.page.locator(f"#views label:has([value={name}])").click()
        self.settle()

    def select(self, control: str, value: str) -> None:
        """Choose in one of the lists."""
        self.page.locator(f"#{control}").select_option(value)
        self.settle()

    def slide(self, control: str, value: int) -> None:
        """Move a slider."""
        self.page.locator(f"#{control}").fill(str(value))
        self.settle()

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.page.locator(selector).inner_text()

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
