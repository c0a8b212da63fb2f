"""How fast the page is in Chromium, beside the service's own times in the same rounds.

python -m benchmarks.browser writes docs/measured/benchmarks-page.md. Needs Chromium (apt install chromium).
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.cases import demo_case
from benchmarks.client import Client
from benchmarks.servers import own_server, running
from benchmarks.startup import busy_share
from benchmarks.timing import percentile, ratio_of_rounds

DOCS = Path(__file__).parents[1] / "docs" / "measured"
EXAMPLES = Path(__file__).parents[1] / "app" / "web" / "examples"
WARMUPS, PAUSE_MS = 2, 150
FIRST_PAINT_MS, ANSWER_RATIO, CHANGE_MS, FPS = 300, 1.2, 60, 50
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# From an event to the frame after what it changed is there.
_TIMED = """async () => {
  const message = () => new Promise((heard) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = heard;
    channel.port2.postMessage(0);
  });
  performance.clearResourceTimings();
  const began = performance.now();
  %(event)s;
  await new Promise((done) => {
    const look = () => (%(done)s) && done();
    new MutationObserver(look).observe(document.getElementById("result"), { attributes: true, subtree: true });
    look();
  });
  await new Promise((frame) => requestAnimationFrame(frame));
  await message();
  const total = performance.now() - began;
  const requests = performance.getEntriesByType("resource").map(({ name, responseEnd, requestStart }) =>
    [name, responseEnd - requestStart]);
  return { total, requests };
}"""
_HAND = """(content) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  globalThis.handed = new DataTransfer();
  handed.items.add(new File([bytes], "picture", { type: "image/*" }));
}"""
# The least that any page would do: send the file, write the label, wait for the frame.
_LEAST = """async () => {
  const said = document.createElement("p");
  document.body.append(said);
  const began = performance.now();
  const body = new FormData();
  body.append("file", handed.files[0]);
  const answer = await (await fetch("predict", { method: "POST", body })).json();
  said.textContent = answer.label;
  await new Promise((frame) => requestAnimationFrame(() => {
    const after = new MessageChannel();
    after.port1.onmessage = frame;
    after.port2.postMessage(0);
  }));
  said.remove();
  return performance.now() - began;
}"""
_DROP = "dispatchEvent(new DragEvent('drop', { dataTransfer: handed }))"
_CHANGE = """const control = document.getElementById("%s");
control.value = "%s";
control.dispatchEvent(new Event("change"))"""
# Something else to draw for every frame, and how long each took.
_FRAMES = """async () => {
  const slide = (frame) => {
    const slider = document.getElementById("opacity");
    slider.value = 20 + (frame * 7) %% 80;
    slider.dispatchEvent(new Event("input"));
  };
  const point = (frame) => document.querySelector(`[data-cell="${frame %% 49}"]`)
    .dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  const times = [];
  for (let frame = 0; frame < 60; frame++) {
    (%s)(frame);
    times.push(await new Promise(requestAnimationFrame));
  }
  return times.slice(1).map((time, index) => time - times[index]);
}"""
_MOVES = {
    "a slider, one map": ("evidence", "slide"),
    "a slider, three maps side by side": ("branches", "slide"),
    "the pointer, from token to token": ("tokens", "point"),
}
_ANSWERED = "document.querySelector('#result[data-state=answered] #label')?.textContent"
_QUIET = "!document.querySelector('#view[aria-busy]')"


@dataclass
class Found:
    """Times in ms, a list entry for each round."""

    first_paint: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    changed_over: dict[str, list[float]] = field(default_factory=lambda: {"branch": [], "target": []})
    frames: dict[str, list[float]] = field(default_factory=lambda: {move: [] for move in _MOVES})

    def fps(self, move: str) -> float:
        """Frames a second."""
        return 1000 * len(self.frames[move]) / sum(self.frames[move])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browser")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the page")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("Chromium is not installed: apt install chromium")
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        case = demo_case(Path(folder))
        with running(own_server(case, "openvino")) as server:
            browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
            busy, chrome = busy_share(), browser.version
            for name, picture in pictures().items():
                found[name] = _measured(browser, server.address, picture, args.rounds)
            browser.close()
    page = _page(found, chrome, busy, args.rounds)
    print(page)
    (args.out / "benchmarks-page.md").write_text(page, encoding="utf-8")


def pictures() -> dict[str, bytes]:
    """A small drawn picture, and one as a camera takes it."""
    small = (EXAMPLES / "ragged.webp").read_bytes()
    large = io.BytesIO()
    with Image.open(io.BytesIO(small)) as drawn:
        drawn.convert("RGB").resize((3000, 3000), Image.Resampling.BICUBIC).save(large, "JPEG", quality=90)
    return {"448 × 448 WebP": small, "3000 × 3000 JPEG": large.getvalue()}


def _measured(browser: Browser, address: str, picture: bytes, rounds: int) -> Found:
    found, client = Found(), Client(address)
    for number in range(WARMUPS + rounds):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        _round(context.new_page(), address, client, picture, found if number >= WARMUPS else Found())
        context.close()
    client.close()
    return found


def _round(page: Page, address: str, client: Client, picture: bytes, found: Found) -> None:
    page.goto(address)
    page.wait_for_selector("#about-open")
    found.first_paint.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    page.evaluate(_HAND, base64.b64encode(picture).decode())
    page.wait_for_timeout(PAUSE_MS)
    began = time.perf_counter()
    client.post("/predict", picture)
    found.client.append((time.perf_counter() - began) * 1e3)
    page.wait_for_timeout(PAUSE_MS)
    found.least.append(page.evaluate(_LEAST))
    page.wait_for_timeout(PAUSE_MS)
    found.answered.append(page.evaluate(_TIMED % {"event": _DROP, "done": _ANSWERED})["total"])
    for control, value in (("branch", "cnn"), ("target", "benign")):
        page.wait_for_selector("#view:not([aria-busy])")
        page.wait_for_timeout(PAUSE_MS)
        changed = page.evaluate(_TIMED % {"event": _CHANGE % (control, value), "done": _QUIET})
        own = sum(spent for name, spent in changed["requests"] if "explain" in name)
        found.changed_over[control].append(changed["total"] - own)
    for move, (view, mover) in _MOVES.items():
        page.locator(f"#views label:has([value={view}])").click()
        page.wait_for_selector("#view:not([aria-busy])")
        page.wait_for_timeout(PAUSE_MS)
        found.frames[move] += page.evaluate(_FRAMES % mover)


def _page(found: dict[str, Found], chrome: str, busy: float, rounds: int) -> str:
    lines = [
        "# Benchmarks of the page\n",
        f"`make bench` writes this page. All figures are of one run of {rounds} rounds, and each round uses a new",
        f"browser profile. Times are medians. Chromium {chrome} ran without a GPU. The browser and the service, with",
        f"the demo bundle and openvino {version('openvino')}, shared {os.cpu_count()} cores of {platform.machine()},",
        f"of which {busy:.0%} were in use before the run.\n",
        "| what | goal | " + " | ".join(found) + " |",
        "| --- | --- |" + " --- |" * len(found),
    ]

    def row(what: str, goal: str, values: list[tuple[str, bool]]) -> None:
        shown = [f"{value}{'' if reached else ' **missed**'}" for value, reached in values]
        lines.append(f"| {what} | {goal} | " + " | ".join(shown) + " |")

    every = found.values()
    paints = [median(one.first_paint) for one in every]
    row("first contentful paint", f"≤ {FIRST_PAINT_MS} ms", [(f"{ms:.0f} ms", ms <= FIRST_PAINT_MS) for ms in paints])
    dropped = "from dropping a picture to the painted answer"
    row(
        f"{dropped} ÷ `POST /predict` by an HTTP client",
        f"≤ {ANSWER_RATIO}",
        [_ratio(one.answered, one.client) for one in every],
    )
    row(
        f"{dropped} ÷ the least that any page must do: send, write the label, wait for the next frame",
        "",
        [(_ratio(one.answered, one.least)[0], True) for one in every],
    )
    for control, what in (("branch", "another branch"), ("target", "another class")):
        over = [median(one.changed_over[control]) for one in every]
        values = [(f"{ms:.0f} ms", ms <= CHANGE_MS) for ms in over]
        row(f"from choosing {what} to its painted map, less the request's own time", f"≤ {CHANGE_MS} ms", values)
    for move in _MOVES:
        rates = [(one.fps(move), percentile(one.frames[move], 95)) for one in every]
        shown = [(f"{rate:.0f} (95 % of frames within {slow:.0f} ms)", rate >= FPS) for rate, slow in rates]
        row(f"frames a second while moving {move}", f"≥ {FPS}", shown)
    lines.append(
        "\nWhile the service works, the browser shows the picture and lays out the page on the same cores. The answer"
        "\nthen waits for the next frame. For a small picture this is a large part of the time."
    )
    return "\n".join(lines) + "\n"


def _ratio(above: list[float], below: list[float]) -> tuple[str, bool]:
    ratio = ratio_of_rounds(above, below)
    return f"{ratio:.2f} ({median(above):.0f} ÷ {median(below):.0f} ms)", ratio <= ANSWER_RATIO


if __name__ == "__main__":
    main()
