"""What a bundle costs by where its branches are cut: the trunk, the head with its gradients, and the default method.

python -m benchmarks.cuts BUNDLE [BUNDLE …] prints a table. All take turns in one process; the weights do not matter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from benchmarks.timing import interleaved
from benchmarks.turns import Runs

PICTURE = Path(__file__).parents[1] / "app" / "web" / "examples" / "drawn.webp"
TRUNK, HEAD, EXPLAINED = "trunk, ms", "head with gradients, ms", "`integrated`, ms"


def contestants(folder: Path) -> tuple[str, Runs]:
    """The grids of a bundle's maps, and what is timed."""
    bundle = read_bundle(folder)
    predictor = Predictor(bundle, load_engine(bundle, "openvino"), Limits(), preview_side_px=1024)
    kept, _ = predictor.predict(predictor.open(PICTURE.read_bytes()))
    image, engine = kept.upload.image[None], predictor.engine
    maps, weights = engine.encode(image), np.eye(len(bundle.manifest.classes), dtype=np.float32)[:1]
    grids = " | ".join(f"{rows} × {columns}" for _, rows, columns in bundle.manifest.map_shapes.values())
    return grids, {
        TRUNK: lambda: engine.encode(image),
        HEAD: lambda: engine.explain(maps, weights),
        EXPLAINED: lambda: predictor.explain_one(kept, HeatmapRequest(method="integrated")).heatmap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuts")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    cases = [contestants(folder) for folder in args.bundles]
    runs = {f"{number} {name}": run for number, (_, case) in enumerate(cases) for name, run in case.items()}
    times = interleaved(runs, args.rounds)
    print(f"| cells of the CNN | of the transformer | {TRUNK} | {HEAD} | {EXPLAINED} |")
    print("| --- | --- | --: | --: | --: |")
    for number, (grids, case) in enumerate(cases):
        print(f"| {grids} | " + " | ".join(f"{times[f'{number} {name}'].median_ms:.1f}" for name in case) + " |")


if __name__ == "__main__":
    main()
