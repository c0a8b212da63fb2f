"""Every method's heatmap of a stored prediction over HTTP, against the same method of pytorch-grad-cam over HTTP.

python -m benchmarks.methods writes docs/benchmarks-methods.md and docs/benchmarks-methods.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.explain.integrated import integrated
from app.explain.merge import merge_sum
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest, TokenRequest
from benchmarks.cases import demo_case, random_case
from benchmarks.client import Client
from benchmarks.goals import ratio
from benchmarks.models import Case
from benchmarks.rivals.grad_cam import METHODS
from benchmarks.servers import fastapi_server, own_server, running
from benchmarks.startup import busy_share
from benchmarks.timing import Times
from benchmarks.turns import Group, Raced, Runs, take_turns

DOCS = Path(__file__).parents[1] / "docs"
GRADIENT_METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam")
HTTP_GOAL, INTEGRATED_GOAL = 1 / 20, 1.2
TRUNK, FINE, TOKENS = "trunk", "integrated, fine detail", "token saliency"
INTEGRATED, AS_SERVED = "integrated, 16 nodes", "integrated, as many nodes as it takes"


def ours(address: str, picture: Path) -> Runs:
    """The overlay of a stored prediction's CNN branch, in another opacity each time, so that nothing is kept."""
    client = Client(address)
    stored = client.post("/predict", picture.read_bytes()).json()["prediction_id"]
    opacity = count(0.5, 1e-6)

    def asked(method: str) -> Callable[[], object]:
        path = f"/gradcam?prediction_id={stored}&branch=cnn&method={method.replace('+', '%2B')}"
        return lambda: len(client.get(f"{path}&alpha_max={next(opacity):.6f}").body)

    return {f"ours {method}": asked(method) for method in METHODS}


def theirs(address: str, picture: Path) -> Runs:
    """FastAPI with pytorch-grad-cam, which has kept nothing: the picture is sent again."""
    client, content = Client(address), picture.read_bytes()

    def asked(method: str) -> Callable[[], object]:
        path = f"/predict?method={method.replace('+', '%2B')}"
        return lambda: len(client.post(path, content).body)

    return {f"theirs {method}": asked(method) for method in METHODS}


def in_process(case: Case) -> Runs:
    """The trunk, and what costs more than one pass of the head."""
    bundle = read_bundle(case.bundle)
    predictor = Predictor(bundle, load_engine(bundle, "openvino", cache=case.cache), Limits(), preview_side_px=1024)
    kept, _ = predictor.predict(predictor.open(case.picture.read_bytes()))
    stages = predictor.engine.token_stages
    picture = predictor.attribution_input(kept, predictor.answer(kept).label, None)
    return {
        TRUNK: lambda: predictor.engine.encode(kept.upload.image[None]),
        INTEGRATED: lambda: merge_sum(integrated(picture, (16,)).heatmaps),
        AS_SERVED: lambda: predictor.explain_one(kept, HeatmapRequest(method="integrated")).heatmap,
        FINE: lambda: predictor.explain_one(kept, HeatmapRequest(method="integrated", detail="fine")).heatmap,
        TOKENS: lambda: predictor.explain_one(kept, TokenRequest(stages[0])).heatmap,
    }


def raced(case: Case, rounds: int) -> Raced:
    """All in turn, with both servers up."""
    with running(own_server(case, "openvino")) as own, running(fastapi_server(case)) as other:
        groups = [
            Group(ours, (own.address, case.picture)),
            Group(theirs, (other.address, case.picture)),
            Group(in_process, (replace(case, cache=case.cache.with_name(f"{case.cache.name}-in-process")),)),
        ]
        return take_turns(groups, rounds)


def page(found: dict[str, dict[str, Times]], busy: float, rounds: int) -> str:
    """The report, in Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("openvino", "torch", "grad-cam", "fastapi"))
    lines = [
        "# Benchmarks of the methods\n",
        f"Written by `python -m benchmarks.methods`: one run, all in turn, medians of {rounds} rounds,",
        f"{os.cpu_count()} cores of {platform.machine()}, {busy:.0%} of them busy before. {packages}.\n",
        "A stored prediction's overlay by `GET /gradcam` (CNN branch, PNG), against FastAPI with pytorch-grad-cam and",
        "the same method and layer, which answers with a 7 × 7 map. In brackets the quartiles of the ratio.\n",
    ]
    for model, times in found.items():
        lines += [
            f"## {model}\n",
            "| method | ours, ms | pytorch-grad-cam, ms | ours ÷ theirs | goal |",
            "| --- | --: | --: | --- | --- |",
        ]
        for method in METHODS:
            own, other = times[f"ours {method}"], times[f"theirs {method}"]
            share = _ratio(own, other)
            goal = _reached(share.median_ms <= HTTP_GOAL, "1/20") if method in GRADIENT_METHODS else ""
            low, high = share.quartiles_ms
            written = f"1/{1 / share.median_ms:.0f} (1/{1 / low:.0f} to 1/{1 / high:.0f})"
            lines.append(f"| `{method}` | {own.median_ms:.1f} | {other.median_ms:.0f} | {written} | {goal} |")
        lines += ["\n| in process | ms | ÷ one pass of the trunk | goal |", "| --- | --: | --- | --- |"]
        for name in (TRUNK, INTEGRATED, AS_SERVED, FINE, TOKENS):
            share = _ratio(times[name], times[TRUNK])
            goal = _reached(share.median_ms <= INTEGRATED_GOAL, "1.2") if name == INTEGRATED else ""
            low, high = share.quartiles_ms
            lines.append(
                f"| {name} | {times[name].median_ms:.1f} | {share.median_ms:.2f} ({low:.2f} to {high:.2f}) | {goal} |"
            )
        lines.append("")
    lines.append(
        "As served, `integrated` takes 16 nodes, and 32 or 64 where the map of fewer does not add up to the score's "
        "difference within a thousandth."
    )
    return "\n".join(lines).rstrip() + "\n"


def _ratio(above: Times, below: Times) -> Times:
    return Times(tuple(ratio(list(above.rounds_ms), list(below.rounds_ms))))


def _reached(reached: bool, bound: str) -> str:
    return f"≤ {bound}: {'reached' if reached else '**missed**'}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the report (default docs/)")
    args = parser.parse_args()
    busy = busy_share()
    with tempfile.TemporaryDirectory() as folder:
        cases = [make(Path(folder)) for make in (random_case, demo_case)]
        found = {case.name: raced(case, args.rounds).times for case in cases}
    (args.out / "benchmarks-methods.md").write_text(page(found, busy, args.rounds), encoding="utf-8")
    document = {model: {name: one.rounds_ms for name, one in times.items()} for model, times in found.items()}
    (args.out / "benchmarks-methods.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print((args.out / "benchmarks-methods.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
