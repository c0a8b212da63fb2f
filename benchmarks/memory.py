"""Where the memory of the service goes: step by step in one process, and of the whole service under a mixed load.

python -m benchmarks.memory writes docs/measured/benchmarks-memory.md and docs/measured/benchmarks-memory.json.
`python -m scripts.measured_pages` writes the page again from the JSON, without measuring.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from app.engines.protocol import EngineKind
from benchmarks.cases import DEMO, RANDOM, demo_case, random_case
from benchmarks.client import Client
from benchmarks.models import Case
from benchmarks.servers import environment, own_server, running

DOCS = Path(__file__).parents[1] / "docs" / "measured"
CLIENTS, REQUESTS = 8, 200
SERVED_GOAL_MB, SHARE_GOALS = 450, {RANDOM: 0.5, DEMO: 0.4}
ASKED = (
    "/explain?{id}",
    "/gradcam?{id}",
    "/explain?method=ablationcam&{id}",
    "/attention?{id}",
    "/gradcam?format=json&{id}",
)
HEAD = """# Memory

`python -m benchmarks.memory` writes this page and [benchmarks-memory.json](benchmarks-memory.json). Memory is the
proportional set size (PSS): what processes share, such as libraries, is divided among them.

## Step by step

One process does with the demo bundle what the service does when it starts and answers, with compiled graphs in a
cache. Each row is what the step adds; memory that was freed is given back to the system after it.

| step | MB |
| --- | --: |
"""
SERVED = """
## The service

At the start nothing is stored. Then {clients} clients send {requests} requests: predictions, and explanations by five
ways. All processes count, those that decode included. In the end the memory holds the store (30 MB for the demo bundle)
and a full cache of answers (32 MB; `answers_max_bytes`). A service with one core for the model runs one pass at once,
and needs no graph for concurrent calls.

| | ready, MB | after ten default maps, MB | after the mixed load, MB | ÷ torch | goals |
| --- | --: | --: | --: | --: | --- |
"""


def loaded(case: Case, engine: EngineKind, **settings: str) -> dict[str, float]:
    """The memory of a service, in MB: when it is ready, after ten default maps, and after the mixed load.

    `settings` are further variables of the environment.
    """
    content, server = case.picture.read_bytes(), own_server(case, engine)
    with running(replace(server, settings=server.settings | settings)) as service:
        client, found = Client(service.address), {"ready": service.pss_mb()}
        stored = client.post("/predict", content).json()["prediction_id"]
        for opacity in range(10):
            client.get(f"/explain?prediction_id={stored}&alpha={opacity / 20}")
        found["maps"] = service.pss_mb()
        _mixed(service.address, content)
        return found | {"mix": service.pss_mb()}


def _mixed(address: str, content: bytes) -> None:
    turns, opacity = count(), count(1)

    def ask() -> None:
        client = Client(address)
        stored = client.post("/predict", content).json()["prediction_id"]
        while (turn := next(turns)) < REQUESTS - CLIENTS:
            if turn % 8 < 3:
                stored = client.post("/predict", content).json()["prediction_id"]
            else:
                path = ASKED[turn % 8 - 3].format(id=f"prediction_id={stored}")
                client.get(path if "json" in path else f"{path}&alpha={next(opacity) / 1000:.3f}")

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def page(raw: Mapping[str, Any]) -> str:
    """The report, in Markdown."""
    text, before = HEAD, 0.0
    for name, total in raw["steps"]:
        text += f"| {name} | {total - before:.0f} |\n"
        before = total
    text += f"| **all** | **{before:.0f}** |\n" + SERVED.format(clients=CLIENTS, requests=REQUESTS)
    for name, engines in raw["served"].items():
        ours, share = engines["openvino"], engines["openvino"]["mix"] / engines["torch"]["mix"]
        goals = [_reached(share <= SHARE_GOALS[name], f"{SHARE_GOALS[name]:g} of torch")]
        if name == DEMO:
            goals.insert(0, _reached(ours["mix"] <= SERVED_GOAL_MB, f"{SERVED_GOAL_MB} MB"))
        text += f"| {name} | {_sizes(ours)} | {share:.2f} | {'; '.join(goals)} |\n"
    return text + f"| {DEMO}, one core | {_sizes(raw['one_core'])} | | |\n"


def _sizes(sizes_mb: Mapping[str, float]) -> str:
    return " | ".join(f"{sizes_mb[when]:.0f}" for when in ("ready", "maps", "mix"))


def _reached(reached: bool, bound: str) -> str:
    return f"≤ {bound}: {'reached' if reached else '**missed**'}"


def read_page(folder: Path) -> str:
    """The page that `benchmarks-memory.json` in `folder` gives."""
    return page(json.loads((folder / "benchmarks-memory.json").read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the report (default docs/measured/)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.memory_steps", str(Path(folder) / "cache")]
        for _ in range(2):  # the second one finds compiled graphs
            ran = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=True)
        engines: tuple[EngineKind, ...] = ("openvino", "torch")
        cases = [make(Path(folder)) for make in (random_case, demo_case)]
        served = {case.name: {engine: loaded(case, engine) for engine in engines} for case in cases}
        one_core = loaded(cases[-1], "openvino", FUSIONLENS_THREADS="1")
    raw = json.dumps({"steps": json.loads(ran.stdout), "served": served, "one_core": one_core}, indent=1)
    (args.out / "benchmarks-memory.json").write_text(raw + "\n", encoding="utf-8")
    text = read_page(args.out)
    (args.out / "benchmarks-memory.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
