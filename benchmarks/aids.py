"""How good foreign parts, similar cases and recalibration are, on pictures of val.

python -m benchmarks.aids DATA [--bundle BUNDLE] writes docs/measured/aids.md and docs/measured/aids.json. DATA is
labelled, and has a split val. `python -m scripts.measured_pages` writes the page again from the JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from app.bundles.manifest import CASES
from app.bundles.reader import Bundle, read_bundle
from app.cases.index import CaseIndex
from app.cases.stored import cases_of
from app.engines.load import load_engine
from app.engines.protocol import Engine
from app.files import DEMO_BUNDLE
from app.models.feature_maps import FeatureMaps, unbatched
from app.predicting.answer import answer_of
from app.progress import tracked
from app.shapes import Float, UInt8
from app.trust.fitted import trust_of
from benchmarks.cases import demo_case
from benchmarks.client import Client
from benchmarks.contestants import THEIRS, grad_cam
from benchmarks.models import Case
from benchmarks.pasted_objects import KINDS, with_object
from benchmarks.servers import own_server, running
from benchmarks.timing import median_ratio
from benchmarks.turns import Group, Runs, take_turns
from training.data.samples import Sample, read_samples
from training.loading.forward import prepared_batches, to_engine_batches
from training.metrics.classification import chance_outcomes, excess_calibration_error
from training.trust.novelty_fit import FREE, rank_of_patch, share_of_cells
from training.trust.observed import Observed, observe, stored_maps
from training.trust.recalibrate import confidence_of, recalibrate

DOCS = Path(__file__).parents[1] / "docs" / "measured"
SEED, DRAWS, K = 0, 1000, 5
LOCAL, SITES = 150, 8  # labelled pictures of a simulated site, and how often such a site is simulated
PREVALENCES = (0.5, 0.2)  # shares of the positive pictures that a site keeps
MANY, ASKED = 100_000, 30
PARTS_GOAL, INDEX_GOAL_MB, ASK_GOAL_MS, MANY_GOAL_MS, HALVED = 0.85, 5.0, 2.0, 10.0, 0.5
NOVELTY, SIMILAR, ROUNDS = "GET /novelty", "GET /similar", 9
RATIO_GOAL, PNG_GOAL_MB = 1 / 20, 2.0
Picture = UInt8[np.ndarray, "h w 3"]
Interval = dict[str, float]
HEAD = """# Foreign parts, similar cases, a new site

`python -m benchmarks.aids DATA` writes this page and [aids.json](aids.json), with the {pictures} pictures of val, which
the trust part and the index have not seen. The methods were chosen on pictures of train. Intervals are those of a
bootstrap over pictures, at 95 %. [How far to trust an answer](../trust.md) says what is measured.
"""


def measure(path: Path, data: Path) -> dict[str, Any]:
    """All figures."""
    bundle = read_bundle(path)
    engine, manifest = load_engine(bundle, "auto"), bundle.manifest
    val, maps = [sample for sample in read_samples(data) if sample.split == "val"], list[FeatureMaps[np.ndarray]]()
    seen = observe(engine, manifest, val, maps.append)
    size = (manifest.input.height_px, manifest.input.width_px)
    batches = to_engine_batches(prepared_batches(val, size, manifest.input.stretch, 1))
    return {
        "pictures": len(val),
        "parts": parts_found(bundle, engine, [batch[0] for batch in batches], maps),
        "cases": cases_agree(bundle, seen),
        "site": sites_moved(bundle, engine, val),
        "served": served(path),
    }


def interval(values: Float[np.ndarray, " n"]) -> Interval:
    """The mean and the interval of a bootstrap."""
    rng = np.random.default_rng(SEED)
    draws = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return {"value": float(values.mean()), "low": low, "high": high}


def parts_found(
    bundle: Bundle, engine: Engine, pictures: Sequence[Picture], bare: Sequence[FeatureMaps[np.ndarray]]
) -> dict[str, Any]:
    """How the cells of a pasted object rank among the others, whether the highest is one, and how often nothing is."""
    fitted, rule = trust_of(bundle), bundle.manifest.trust
    assert fitted is not None and fitted.parts is not None and rule is not None
    parts, limit = fitted.parts, fitted.parts.limit(rule.inside)
    rng, ranks, points = np.random.default_rng(SEED), dict[str, list[float]](), dict[str, list[float]]()
    for number, picture in enumerate(tracked(pictures, "pasted objects", "pictures", len(pictures))):
        kind = [*KINDS][number % len(KINDS)]
        pasted, where = with_object(picture, kind, rng)
        (maps,) = unbatched(stored_maps(engine, pasted[None]))
        distances = parts.distances(maps)
        if (rank := rank_of_patch(distances, where)) is not None:
            ranks.setdefault(kind, []).append(rank)
            covered = share_of_cells(where, distances.shape)
            points.setdefault(kind, []).append(float(covered.flat[distances.argmax()] > FREE))
    coloured = np.array([float(parts.distances(maps).max() > limit) for maps in bare])
    every = {kind: (np.array(ranks[kind]), np.array(points[kind])) for kind in ranks}
    every["all"] = tuple(np.concatenate(each) for each in zip(*every.values(), strict=True))  # type: ignore[assignment]
    return {
        "branches": [*parts.branches],
        "kinds": {
            kind: {"pictures": len(of_kind[0]), "auroc": interval(of_kind[0]), "pointing": interval(of_kind[1])}
            for kind, of_kind in every.items()
        },
        "coloured": interval(coloured),
        "map_ms": time_ms(lambda: parts.distances(bare[0])),
    }


def cases_agree(bundle: Bundle, seen: Observed) -> dict[str, Any]:
    """How often the labels of the nearest cases are the true one, beside the model's own answers."""
    index, manifest = cases_of(bundle), bundle.manifest
    assert index is not None
    features = [{branch: each[place] for branch, each in seen.features.items()} for place in range(len(seen.labels))]
    truths = [manifest.classes[label] for label in seen.labels]
    found = [
        [case.label == truth for case in index.nearest(one, K)] for one, truth in zip(features, truths, strict=True)
    ]
    shares, majorities = ([float(np.mean(each)) for each in found], [float(sum(each) > K / 2) for each in found])
    right = [
        float(answer_of(manifest, logits).label == truth) for logits, truth in zip(seen.logits, truths, strict=True)
    ]
    many = enlarged(index, MANY)
    return {
        "count": len(index.names),
        "size_mb": (bundle.path / CASES).stat().st_size / 1e6,
        "share": interval(np.array(shares)),
        "majority": interval(np.array(majorities)),
        "model": interval(np.array(right)),
        "majority_minus_model": interval(np.array(majorities) - np.array(right)),
        "ask_ms": time_ms(lambda: index.nearest(features[0], K)),
        "many": MANY,
        "ask_many_ms": time_ms(lambda: many.nearest(features[0], K)),
    }


def enlarged(index: CaseIndex, count: int) -> CaseIndex:
    """An index of so many cases, drawn at random."""
    vectors = np.random.default_rng(SEED).normal(size=(count, index.vectors.shape[1]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return replace(
        index,
        vectors=vectors.astype(np.float16),
        labels=np.zeros(count, np.int32),
        groups=np.arange(count),
        is_local=np.zeros(count, bool),
        names=tuple(map(str, range(count))),
        group_names=None,
        thumbnails=None,
    )


def time_ms(run: Callable[[], object]) -> float:
    """The median time of a call, in ms."""
    spent = []
    for _ in range(ASKED):
        began = perf_counter()
        run()
        spent.append((perf_counter() - began) * 1e3)
    return median(spent)


def sites_moved(bundle: Bundle, engine: Engine, val: Sequence[Sample]) -> dict[str, Any]:
    """The calibration error at simulated sites, before and after `recalibrate`, on pictures that it has not seen.

    A site has another white balance, a blur, and fewer pictures of the positive class: each of `PREVALENCES` keeps this
    share of them. Each time other pictures are drawn for it. The weights stay, so the model looks at the others once.
    """
    assert bundle.manifest.decision is not None
    positive, rng = bundle.manifest.decision.positive, np.random.default_rng(SEED)
    with TemporaryDirectory() as temporary:
        shifted = [shifted_copy(sample, Path(temporary) / "shifted") for sample in val]
        seen, sites = observe(engine, bundle.manifest, shifted), dict[str, Any]()
        for share in PREVALENCES:
            found = []
            for number in tracked(range(SITES), "sites", "sites", SITES):
                kept = [place for place, one in enumerate(shifted) if one.label != positive or rng.random() < share]
                local, others = np.split(rng.permutation(kept), [LOCAL])
                folder = Path(temporary) / f"{share}-{number}"
                moved = recalibrated(bundle, [shifted[place] for place in local.tolist()], folder)
                found.append([len(others), *(excess_at(one, seen.only(others)) for one in (bundle, moved))])
            counts, before, after = np.array(found).T
            sites[f"{share:g}"] = {
                "others": int(counts[-1]),
                "before": interval(before),
                "after": interval(after),
                "ratio": ratio_of_means(after, before),
            }
    return {"local": LOCAL, "sites": sites}


def recalibrated(bundle: Bundle, local: Sequence[Sample], folder: Path) -> Bundle:
    """The bundle, recalibrated by some pictures, which are linked to in `folder`."""
    for sample in local:
        (folder / "data" / sample.label).mkdir(parents=True, exist_ok=True)
        (folder / "data" / sample.label / sample.path.name).hardlink_to(sample.path)
    return recalibrate(bundle.path, folder / "bundle", folder / "data", None).bundle


def excess_at(bundle: Bundle, seen: Observed) -> float:
    """The calibration error of the trust part's probabilities, less what right ones would show by chance."""
    fitted = trust_of(bundle)
    assert fitted is not None
    probability, outcome = confidence_of(fitted, bundle.manifest, seen)
    return excess_calibration_error(probability, outcome, chance_outcomes(probability, np.random.default_rng(SEED)))


def ratio_of_means(values: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"]) -> Interval:
    """The ratio of two means of the same simulations, and the interval of a bootstrap over these."""
    draws = np.random.default_rng(SEED).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1) / others[draws].mean(axis=1), [0.025, 0.975]).tolist()
    return {"value": float(values.mean() / others.mean()), "low": low, "high": high}


def shifted_copy(sample: Sample, folder: Path) -> Sample:
    """The picture with another white balance, and out of focus."""
    folder.mkdir(exist_ok=True)
    with Image.open(sample.path) as opened_file:
        picture = opened_file.convert("RGB")
    blurred = picture.filter(ImageFilter.GaussianBlur(0.006 * max(picture.size)))
    tinted = np.clip(np.asarray(blurred) * np.array([1.12, 1.0, 0.82]), 0, 255).astype(np.uint8)
    file = folder / f"{sample.path.stem}.png"
    Image.fromarray(tinted).save(file, compress_level=1)
    return replace(sample, path=file)


def asked(case: Case, address: str) -> Runs:
    """The service at `address`, asked about one stored prediction by one client that waits for each answer."""
    client = Client(address)
    stored = client.post("/predict", case.picture.read_bytes()).json()["prediction_id"]
    opacity = count(0.5, 1e-6)  # another one each time: what was asked before would be answered without any work
    return {
        NOVELTY: lambda: len(client.get(f"/novelty?prediction_id={stored}&alpha_max={next(opacity):.6f}").body),
        SIMILAR: lambda: len(client.get(f"/similar?prediction_id={stored}").body),
    }


def served(path: Path) -> dict[str, Any]:
    """What both take over HTTP, as shares of pytorch-grad-cam's time in the same rounds."""
    with TemporaryDirectory() as folder:
        case = replace(demo_case(Path(folder)), bundle=path)
        with running(own_server(case, "openvino")) as own:
            raced = take_turns([Group(asked, (case, own.address)), Group(grad_cam, (case,))], ROUNDS)
    theirs = raced.times[THEIRS]
    return {
        "theirs_ms": theirs.median_ms,
        "bytes": raced.answers[NOVELTY],
        "ratios": {name: median_ratio(raced.times[name], theirs) for name in (NOVELTY, SIMILAR)},
    }


def page(raw: Mapping[str, Any]) -> str:
    """The report, in Markdown."""
    parts, cases, site = raw["parts"], raw["cases"], raw["site"]
    text = HEAD.format(pictures=raw["pictures"])
    text += (
        "\n## Foreign parts\n\nOne object is pasted into each picture, at a known place. AUROC is the chance that a "
        "cell of the object is more foreign than another cell of the same picture; pointing is how often the most "
        f"foreign cell is one of the object's. Branches that take part: {', '.join(parts['branches'])}.\n\n"
        "| object | pictures | AUROC of its cells | pointing |\n| --- | --: | --: | --: |\n"
    )
    for kind, found in parts["kinds"].items():
        text += f"| {kind} | {found['pictures']} | {shown(found['auroc'])} | {shown(found['pointing'])} |\n"
    text += (
        f"\nOf the pictures without an object, {shown(parts['coloured'])} have a part above the limit.\n"
        "\n## Similar cases\n\n"
        f"The index has {cases['count']:,} cases. Of the {K} nearest, these shares have the picture's own label.\n\n"
        "| figure | found |\n| --- | --: |\n"
        f"| share of the nearest with the true label | {shown(cases['share'])} |\n"
        f"| the majority of the nearest has it | {shown(cases['majority'])} |\n"
        f"| the model's own answer is right | {shown(cases['model'])} |\n"
        f"| majority minus model, paired | {shown(cases['majority_minus_model'], '+.3f')} |\n"
        "\n## A new site\n\n"
        "A site has another white balance, a blur, and fewer of the positive pictures. The bundle is recalibrated by "
        f"{site['local']} of its pictures, and judged on the others. The calibration error is less what right "
        "probabilities would show by chance on so few pictures, so that 0 is perfect. Each site is simulated "
        f"{SITES} times; the intervals are over these simulations, which share pictures.\n\n"
        "| positive pictures kept | judged on | before | after | after ÷ before |\n| --: | --: | --: | --: | --: |\n"
    )
    for share, one in site["sites"].items():
        text += f"| {float(share):.0%} | {one['others']} or so | {shown(one['before'])} | {shown(one['after'])} | "
        text += f"{shown(one['ratio'])} |\n"
    return text + _goals(parts, cases, site, raw["served"])


def _goals(
    parts: Mapping[str, Any], cases: Mapping[str, Any], site: Mapping[str, Any], over_http: Mapping[str, Any]
) -> str:
    ratio, size_mb = over_http["ratios"][NOVELTY], over_http["bytes"] / 1e6
    rows = [
        ("AUROC of the cells of a pasted object", f"≥ {PARTS_GOAL}", shown(parts["kinds"]["all"]["auroc"]),
         parts["kinds"]["all"]["auroc"]["value"] >= PARTS_GOAL),
        (f"`{NOVELTY}` of a stored prediction, PNG over HTTP ÷ {THEIRS} alone", f"≤ 1/{1 / RATIO_GOAL:g}",
         f"1/{1 / ratio:.3g}", ratio <= RATIO_GOAL),
        ("size of that PNG", f"≤ {PNG_GOAL_MB:g} MB", f"{size_mb:.2f} MB", size_mb <= PNG_GOAL_MB),
        ("size of the index", f"≤ {INDEX_GOAL_MB:g} MB", f"{cases['size_mb']:.2f} MB",
         cases["size_mb"] <= INDEX_GOAL_MB),
        ("a question to it", f"≤ {ASK_GOAL_MS:g} ms", f"{cases['ask_ms']:.2f} ms", cases["ask_ms"] <= ASK_GOAL_MS),
        (f"a question to {cases['many']:,} cases", f"≤ {MANY_GOAL_MS:g} ms", f"{cases['ask_many_ms']:.2f} ms",
         cases["ask_many_ms"] <= MANY_GOAL_MS),
        *((f"calibration error at a new site with {float(share):.0%} of the positive pictures, after ÷ before",
           f"≤ {HALVED:g}", shown(one["ratio"]), one["ratio"]["value"] <= HALVED)
          for share, one in site["sites"].items()),
    ]  # fmt: skip
    text = "\n## Goals\n\n| figure | goal | found | |\n| --- | --- | --: | --- |\n"
    for name, goal, found, reached in rows:
        text += f"| {name} | {goal} | {found} | {'reached' if reached else '**missed**'} |\n"
    return text


def shown(found: Interval, form: str = ".3f") -> str:
    """A value and the bounds of its interval in words."""
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def read_page(folder: Path) -> str:
    """The page that `aids.json` in `folder` gives."""
    return page(json.loads((folder / "aids.json").read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aids")
    parser.add_argument("data", type=Path, metavar="DATA", help="labelled pictures with a split val")
    parser.add_argument("--bundle", type=Path, default=DEMO_BUNDLE, help="default: the demo bundle")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the report (default docs/measured/)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(measure(args.bundle, args.data), indent=1)
    (args.out / "aids.json").write_text(raw + "\n", encoding="utf-8")
    text = read_page(args.out)
    (args.out / "aids.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
