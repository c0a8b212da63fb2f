"""What progressive unfreezing costs a small model whose Swin starts from random weights.

python -m benchmarks.unfreezing DATA --weights FILE --out FOLDER trains the recipe of version 1 of the demo bundle eight
times at half its length, and writes docs/measured/unfreezing.md and unfreezing.json. DATA has splits, and FILE has the
CNN's ImageNet weights. The runs stay in FOLDER, and the same command continues from there. `python -m
scripts.measured_pages` writes the page again from the JSON.

The eight runs are the half of a full factorial design in which the last factor is present if an odd number of the
others is (Box, Hunter and Hunter 1978). So every factor is present in four runs and absent in four, and any other
factor is present in two of each four. Two more runs have the lower rates of the recipe `progressive`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from app.shapes import Float
from benchmarks.aids import Interval, shown
from training.data.samples import Sample, classes_of, read_samples
from training.evaluation.ablate import labelled_pictures
from training.evaluation.comparison import LabelledPictures, mean_over_seeds
from training.evaluation.variant_runs import finished_run, probabilities_of
from training.metrics.classification import DecisionRule, classification_metrics, paired_difference
from training.recipe.config import Recipe
from training.recipe.load import load_recipe

DOCS = Path(__file__).parents[1] / "docs" / "measured"
EPOCHS = 6
# Of the recipe `demo`, what version 2 brought is taken away again.
VERSION_1 = (
    "model.swin_reduction=null",
    "epoch_pictures=null",
    "balance=null",
    "count_by=picture",
    "augmentation.cnn.jpeg=0",
    "augmentation.swin.jpeg=0",
    "ema_decay=0.99",
    "warmup_share=0.1",
)
FACTORS = {
    "layers": "the first two of the CNN's seven stages stay frozen",
    "statistics": "the CNN's batch norms keep the statistics of ImageNet",
    "warmup": "the whole CNN is frozen in the first of the six epochs",
    "erasing": "10 % of the Swin's pictures are blurred, and 10 % lose a rectangle",
}
LOWER = {f"{name}-lower": {factor: factor == name for factor in FACTORS} for name in ("at-once", "statistics")}
Design = dict[str, bool]


def designs() -> list[Design]:
    """The factors of each run."""
    first = product((False, True), repeat=len(FACTORS) - 1)
    return [dict(zip(FACTORS, (*chosen, sum(chosen) % 2 == 1), strict=True)) for chosen in first]


def run_name(design: Design) -> str:
    """The name of a run's folder."""
    return "-".join(name for name, present in design.items() if present) or "at-once"


def recipe_of(design: Design, weights: Path) -> Recipe:
    """The recipe of a run."""
    last = "{unit: stage, last: 5}" if design["layers"] else "all"
    stages = [f"{{name: main, epochs: {EPOCHS - design['warmup']}, cnn: {last}}}"]
    if design["warmup"]:
        stages.insert(0, "{name: warmup, epochs: 1, cnn: frozen}")
    changes = [*VERSION_1, f"start.cnn.weights={weights.absolute()}", f"stages=[{', '.join(stages)}]"]
    changes.append(f"batch_norm={'frozen' if design['statistics'] else 'sync'}")
    share = 0.1 if design["erasing"] else 0.0
    return load_recipe("demo", [*changes, f"augmentation.swin.blur={share}", f"augmentation.swin.erasing={share}"])


def recipes(weights: Path) -> dict[str, Recipe]:
    """The recipes of all runs by their names: those of the designs, and two with the rates of `progressive`."""
    rates = load_recipe("progressive").rates
    return {run_name(design): recipe_of(design, weights) for design in designs()} | {
        name: recipe_of(design, weights).model_copy(update={"rates": rates}) for name, design in LOWER.items()
    }


def answers(
    data: Path, weights: Path, out: Path, samples: list[Sample], val: list[Sample]
) -> dict[str, Float[np.ndarray, "n k"]]:
    """The probabilities of val that the averaged weights of every run's last epoch answer, by its name."""
    found = {}
    for name, recipe in recipes(weights).items():
        run = finished_run(recipe, data, out.absolute() / name, samples, print)
        if run is None:
            raise SystemExit("stopped: the same command continues from here")
        found[name] = probabilities_of(run, val)
    return found


def effect(
    present: Collection[str], answered: dict[str, Float[np.ndarray, "n k"]], pictures: LabelledPictures
) -> Interval:
    """The mean AUROC of the runs `present` minus that of the others, with a 95 % interval over val's pictures."""
    a = [answer for name, answer in answered.items() if name in present]
    b = [answer for name, answer in answered.items() if name not in present]
    metric = mean_over_seeds(classification_metrics(2, DecisionRule())["auroc"], len(a))
    return asdict(paired_difference(metric, np.hstack(a), np.hstack(b), pictures.labels, pictures.groups))


def measured(answered: dict[str, Float[np.ndarray, "n k"]], pictures: LabelledPictures) -> dict[str, Any]:
    """What the page tells."""
    auroc = classification_metrics(2, DecisionRule())["auroc"]
    chosen = designs()
    lower = {name: answered[name] for name in LOWER}
    answered = {name: answer for name, answer in answered.items() if name not in LOWER}
    found: dict[str, Any] = {"pictures": len(pictures.labels), "epochs": EPOCHS}
    found["runs"] = {name: auroc(answer, pictures.labels) for name, answer in answered.items()}
    found["effects"] = {
        factor: effect([run_name(design) for design in chosen if design[factor]], answered, pictures)
        for factor in FACTORS
    }
    # Of two factors, whether one or both are absent or present: the same four runs for the other two factors.
    one, *others = FACTORS
    found["pairs"] = {
        f"{one}, {other}": mean(found["runs"][run_name(design)] for design in chosen if design[one] == design[other])
        - mean(found["runs"][run_name(design)] for design in chosen if design[one] != design[other])
        for other in others
    }
    both = {name: answered[name] for name in ("at-once", "-".join(FACTORS))}
    found["all"] = effect(["-".join(FACTORS)], both, pictures)
    found["lower"] = {name: auroc(answer, pictures.labels) for name, answer in lower.items()}
    found["lower_statistics"] = effect(["statistics-lower"], lower, pictures)
    return found


def page(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    runs = []
    for design in designs():
        marks = " | ".join("yes" if present else "" for present in design.values())
        runs.append(f"| {marks} | {found['runs'][run_name(design)]:.3f} |")
    effects = [f"| `{name}` | {what} | {shown(found['effects'][name], '+.3f')} |" for name, what in FACTORS.items()]
    pairs = ", ".join(f"{value:+.3f}" for value in found["pairs"].values())
    return f"""# What progressive unfreezing costs

In the recipe of version 1 of [the demo bundle](../model-card.md#version-1), progressive unfreezing was no better than
training everything at once, and looked worse. This page tells its parts from one another. It was measured with

```
python -m benchmarks.unfreezing data/skin --weights WEIGHTS --out runs/unfreezing
```

where `data/skin` are the HAM10000 pictures of version 1, without three whose lesions are elsewhere too, and `WEIGHTS`
are the ImageNet weights of the CNN. Each of the eight runs has {found["epochs"]} epochs, half as many as that recipe,
and the same seed. A factor is present in four of them, and any other factor in two of these and in two of the others.

| {" | ".join(f"`{name}`" for name in FACTORS)} | AUROC |
| {" | ".join("---" for _ in FACTORS)} | ---: |
{chr(10).join(runs)}

The AUROC is that of the averaged weights of the last epoch on the {found["pictures"]} pictures of val, so that it
chose no epoch. The effect of a factor is the mean AUROC of the four runs with it minus that of the four without. The
brackets hold 95 % intervals of a paired bootstrap over val's pictures, which does not cover the randomness of training.

| factor | meaning | effect on the AUROC |
| --- | --- | ---: |
{chr(10).join(effects)}

For comparison, {pairs} are the differences between the four runs in which two factors are equal, both present or both
absent, and the four others. They show how large chance, or two factors together, may be. The run with all four factors
minus the run with none is {shown(found["all"], "+.3f")}.

These runs have the rates of the recipe `demo`, 4e-4. With those of `progressive`, 1e-4 for the branches and 2e-4 for
the head, the run without any factor has an AUROC of {found["lower"]["at-once-lower"]:.3f}, and the one with
`statistics` alone of {found["lower"]["statistics-lower"]:.3f}. The effect
of this one pair of runs is {shown(found["lower_statistics"], "+.3f")}.
"""


def read_page(folder: Path) -> str:
    """The page, from the JSON in its folder."""
    return page(json.loads(folder.joinpath("unfreezing.json").read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unfreezing")
    parser.add_argument("data", type=Path, help="labelled pictures with splits")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of tf_efficientnet_lite0")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    args = parser.parse_args()
    data = args.data.resolve()
    samples = read_samples(data)
    val = [sample for sample in samples if sample.split == "val"]
    pictures = labelled_pictures(val, classes_of(samples))
    found = measured(answers(data, args.weights, args.out, samples, val), pictures)
    DOCS.joinpath("unfreezing.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    DOCS.joinpath("unfreezing.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
