"""Every method's heatmap of a stored prediction over HTTP, against the same method of pytorch-grad-cam over HTTP.

python -m benchmarks.methods writes docs/measured/benchmarks-methods.md and docs/measured/benchmarks-methods.json.
`python -m scripts.measured_pages` writes the page again from the JSON, without measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.explain.integrated import NODES, integrated_gradients
from app.explain.merge import merge_sum
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest, TokenRequest
from app.predicting.target import HeadScore
from benchmarks.cases import DEMO, RANDOM, demo_case, random_case
from benchmarks.client import Client
from benchmarks.goals import ratio
from benchmarks.models import Case
from benchmarks.rivals.grad_cam import METHODS
from benchmarks.servers import fastapi_server, own_server, running
from benchmarks.startup import busy_share
from benchmarks.timing import Times
from benchmarks.turns import Group, Raced, Runs, take_turns

DOCS = Path(__file__).parents[1] / "docs" / "measured"
GRADIENT_METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam")
HTTP_GOAL, EXPLAIN_GOAL = 1 / 20, 0.8
# Of integrated gradients as served ÷ one pass of the trunk, and of Ablation-CAM ÷ pytorch-grad-cam's Grad-CAM.
AS_SERVED_GOAL = {RANDOM: 0.25, DEMO: 0.6}
ABLATION_GOAL = {RANDOM: 1 / 25, DEMO: 1 / 20}
TRUNK, FINE, TOKENS, ABLATION = "trunk", "integrated, fine detail", "token saliency", "ablationcam"
INTEGRATED, AS_SERVED = f"integrated, {NODES[0]} nodes", "integrated, as many nodes as it takes"
PLAIN = f"integrated without the second cut, {NODES[0]} nodes"
EXPLAIN, PREDICT = "GET /explain", "POST /predict"
HEAD = """# Benchmarks of the methods

`make bench` writes this page and [benchmarks-methods.json](benchmarks-methods.json), which holds every single time. All
contestants took turns in one run. Times are medians of {rounds} rounds on {machine}, of which {busy:.0%} were in use
before the run, with {packages}.

The first table of each model compares `GET /gradcam` with FastAPI and pytorch-grad-cam over HTTP, by the same method at
the same layer of the CNN. FusionLens explains a stored prediction and answers with an overlay as PNG. The other server
receives the picture again and answers with a 7 × 7 map. The brackets hold the quartiles of the ratio.

The second table compares what costs more than one pass of the head with one pass of the trunk. The service starts
`integrated` with 15 nodes. It takes 31 or 63 where the map of fewer nodes does not add up to the score's difference
within a thousandth.
"""


class ThroughTheWholeHead(HeadScore):
    """The score as in a bundle without the graph of a lifted head."""

    lifted = None


def ours(address: str, picture: Path) -> Runs:
    """The overlay of a stored prediction's CNN branch, in another opacity each time, so that nothing is kept."""
    client = Client(address)
    stored = client.post("/predict", picture.read_bytes()).json()["prediction_id"]
    opacity = count(0.5, 1e-6)

    def asked(method: str) -> Callable[[], object]:
        path = f"/gradcam?prediction_id={stored}&branch=cnn&method={method.replace('+', '%2B')}"
        return lambda: len(client.get(f"{path}&alpha_max={next(opacity):.6f}").body)

    default = f"/explain?prediction_id={stored}"
    return {f"ours {method}": asked(method) for method in METHODS} | {
        EXPLAIN: lambda: len(client.get(f"{default}&alpha_max={next(opacity):.6f}").body),
        PREDICT: lambda: client.post("/predict", picture.read_bytes()).json(),
    }


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
    assert isinstance(picture.score, HeadScore)
    plain = replace(picture, score=ThroughTheWholeHead(predictor.engine, picture.score.weights))
    return {
        TRUNK: lambda: predictor.engine.encode(kept.upload.image[None]),
        PLAIN: lambda: merge_sum(integrated_gradients(plain, NODES[:1]).heatmaps),
        INTEGRATED: lambda: merge_sum(integrated_gradients(picture, NODES[:1]).heatmaps),
        AS_SERVED: lambda: predictor.explain_one(kept, HeatmapRequest(method="integrated")).heatmap,
        FINE: lambda: predictor.explain_one(kept, HeatmapRequest(method="integrated", detail="fine")).heatmap,
        ABLATION: lambda: predictor.explain_one(kept, HeatmapRequest(method="ablationcam")).heatmap,
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


def about(busy: float, rounds: int) -> dict[str, object]:
    """Where, how often and with what the figures were taken."""
    packages = {name: version(name) for name in ("openvino", "torch", "grad-cam", "fastapi")}
    return {
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
        "busy_before": round(busy, 2),
        "rounds": rounds,
        "versions": packages,
    }


def page(found: dict[str, dict[str, Times]], about: Mapping[str, Any]) -> str:
    """The report, in Markdown. `about` is what the function of this name gives."""
    packages = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [HEAD.format(busy=about["busy_before"], packages=packages, **about)]
    for model, times in found.items():
        lines += [
            f"## {model}\n",
            "| method | FusionLens, ms | pytorch-grad-cam, ms | FusionLens ÷ pytorch-grad-cam | goal |",
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
        ablation = _ratio(times[ABLATION], times["theirs gradcam"]).median_ms
        bound = AS_SERVED_GOAL[model]
        for name in (TRUNK, PLAIN, INTEGRATED, AS_SERVED, FINE, ABLATION, TOKENS):
            share = _ratio(times[name], times[TRUNK])
            goal = _reached(share.median_ms <= bound, f"{bound:g}") if name == AS_SERVED else ""
            if name == ABLATION:
                reached = _reached(ablation <= ABLATION_GOAL[model], f"1/{1 / ABLATION_GOAL[model]:.0f}")
                goal = f"1/{1 / ablation:.0f} of pytorch-grad-cam's Grad-CAM over HTTP, {reached}"
            low, high = share.quartiles_ms
            lines.append(
                f"| {name} | {times[name].median_ms:.1f} | {share.median_ms:.2f} ({low:.2f} to {high:.2f}) | {goal} |"
            )
        of_predict = _ratio(times[EXPLAIN], times[PREDICT]).median_ms
        took = f"{times[EXPLAIN].median_ms:.1f} ms, {of_predict:.2f} of the {times[PREDICT].median_ms:.1f} ms"
        goal = _reached(of_predict <= EXPLAIN_GOAL, f"{EXPLAIN_GOAL:g}")
        lines.append(f"\n`GET /explain` with the default method takes {took} of `POST /predict` ({goal}).\n")
    return "\n".join(lines).rstrip() + "\n"


def _ratio(above: Times, below: Times) -> Times:
    return Times(tuple(ratio(list(above.rounds_ms), list(below.rounds_ms))))


def _reached(reached: bool, bound: str) -> str:
    return f"≤ {bound}: {'reached' if reached else '**missed**'}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the report (default docs/measured/)")
    args = parser.parse_args()
    facts = about(busy_share(), args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        cases = [make(Path(folder)) for make in (random_case, demo_case)]
        found = {case.name: raced(case, args.rounds).times for case in cases}
    models = {model: {name: one.rounds_ms for name, one in times.items()} for model, times in found.items()}
    raw = json.dumps({"about": facts, "models": models}, indent=1)
    (args.out / "benchmarks-methods.json").write_text(raw + "\n", encoding="utf-8")
    text = read_page(args.out)
    (args.out / "benchmarks-methods.md").write_text(text, encoding="utf-8")
    print(text)


def read_page(folder: Path) -> str:
    """The page that `benchmarks-methods.json` in `folder` gives."""
    raw = json.loads((folder / "benchmarks-methods.json").read_text(encoding="utf-8"))
    found = {
        model: {name: Times(tuple(rounds_ms)) for name, rounds_ms in times.items()}
        for model, times in raw["models"].items()
    }
    return page(found, raw["about"])


if __name__ == "__main__":
    main()
