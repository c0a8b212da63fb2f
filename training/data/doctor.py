"""Checks of a data set before training: findings that call for action, and facts for information."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from app.errors import FusionLensError
from app.pictures.decode import Limits, Picture, decode, open_image
from app.pictures.prepare import prepare
from app.pictures.visibility import lacks_contrast
from app.progress import tracked
from training.data.duplicates import Fingerprint, exact_copies, fingerprint, near_copies
from training.data.limits import TRAINING_LIMITS, service_limits
from training.data.masks import mask_facts, mask_fault, mask_findings
from training.data.report import DataReport
from training.data.sample import SPLITS, DataError, Finding, Kind, Sample
from training.data.samples import read_training_set
from training.data.split import groups_in_several_splits, split_samples

_CONTRAST_SIDE_PX = 224  # of the input in which contrast is looked for
_MIN_PICTURES, _MAX_CLASS_RATIO, _MAX_SIDE_RATIO = 10, 20, 3


@dataclass(frozen=True)
class _InspectedPicture:
    """A readable picture: its size, its colour mode, the decoder's notes and its fingerprint.

    `refusal` is the sentence with which the service refuses it, or None. `mask_fault` is what is wrong with its mask,
    in a few words and in a sentence, or None.
    """

    sample: Sample
    size: tuple[int, int]  # width, height
    colour: str
    notes: tuple[str, ...]
    refusal: str | None
    fingerprint: Fingerprint
    mask_fault: tuple[str, str] | None


def examine(root: Path, input_side_px: int = 224) -> DataReport:
    """Read every picture of the data set `root` (see `read_data_set`), and report on the data.

    Pictures that the service would refuse with the settings of this environment are a finding, and so are pictures
    whose shorter side is below `input_side_px`. Near duplicates within one group that agree in label and split are
    expected, and no finding. Raises DataError for data that cannot be used at all.
    """
    data, service = read_training_set(root), service_limits()
    samples = data.samples
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        each = pool.map(partial(_inspect, service=service), samples)
        inspected = tracked(each, "reading", "pictures", len(samples))
        results = list(zip(samples, inspected, strict=True))
    readable = [picture for _, picture in results if isinstance(picture, _InspectedPicture)]
    unreadable = [(picture, sample.path) for sample, picture in results if isinstance(picture, str)]
    findings = [
        *data.findings,
        *_findings_by_sentence("unreadable", unreadable),
        *_findings_by_sentence("note", [(note, picture.sample.path) for picture in readable for note in picture.notes]),
        *_service_findings(readable),
        *_split_findings(samples),
        *_copy_findings(readable),
        *_balance_findings(samples),
        *_size_findings(readable, input_side_px),
        *_colour_findings(readable),
        *mask_findings(samples, {each.sample: each.mask_fault for each in readable if each.mask_fault is not None}),
    ]
    return DataReport(
        root if root.is_dir() else root.parent,
        (*_facts(samples, readable), *mask_facts(samples), *data.facts),
        tuple(findings),
    )


def _inspect(sample: Sample, service: Limits) -> _InspectedPicture | str:
    """Decode the picture as training does. Returns the reason if that is impossible."""
    try:
        data = sample.path.read_bytes()
        picture = decode(data, TRAINING_LIMITS)
    except (FusionLensError, OSError) as error:
        return str(error)
    with open_image(data, picture.format) as image:
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
        colour = "grey" if grey else "CMYK" if image.mode == "CMYK" else "colour"
        if image.has_transparency_data:
            colour += " with transparency"
    refusal = _refusal(picture, service)
    fault = mask_fault(sample, (picture.width_px, picture.height_px))
    prints = fingerprint(np.asarray(picture.image))
    notes = picture.notes
    if lacks_contrast(prepare(picture, (_CONTRAST_SIDE_PX, _CONTRAST_SIDE_PX)).image):
        notes += ("There is hardly any contrast: a model sees almost nothing to judge by.",)
    return _InspectedPicture(sample, picture.image.size, colour, notes, refusal, prints, fault)


def _refusal(picture: Picture, service: Limits) -> str | None:
    if picture.format not in service.formats:
        return f"It is {picture.format}: add that to FUSIONLENS_MORE_FORMATS."
    try:
        service.check("picture", picture.width_px, picture.height_px, can_reduce=picture.format == "JPEG")
    except FusionLensError as error:
        return str(error)
    return None


def _service_findings(readable: Sequence[_InspectedPicture]) -> Iterator[Finding]:
    """Yield a finding about pictures on which a model can be trained, but which its service would refuse."""
    if refused := [picture for picture in readable if picture.refusal is not None]:
        sentence = (
            f"training reads {len(refused)} picture(s) that the service would refuse, the first because: "
            f"{refused[0].refusal} Or raise FUSIONLENS_MAX_PIXELS, FUSIONLENS_MAX_FULL_PIXELS and "
            "FUSIONLENS_MAX_SIDE_PX for the service"
        )
        yield Finding("serving", sentence, _paths(picture.sample for picture in refused))


def _findings_by_sentence(kind: Kind, cases: Iterable[tuple[str, Path]]) -> Iterator[Finding]:
    """Yield one finding for each distinct sentence, with all the pictures that it concerns."""
    paths: defaultdict[str, list[Path]] = defaultdict(list)
    for sentence, path in cases:
        paths[sentence].append(path)
    for sentence, affected in paths.items():
        yield Finding(kind, f"{len(affected)} picture(s): {sentence}", tuple(affected))


def _split_findings(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield what a training run would refuse: groups in several splits, or classes that are missing from a split."""
    leaks = groups_in_several_splits(samples)
    for group, members in leaks.items():
        yield Finding("group", f"group {group} is {_in_splits(members)}", _paths(members))
    if not leaks:
        try:
            split_samples(samples, val_share=0.2, seed=0)
        except DataError as error:
            yield Finding("split", str(error))


def _copy_findings(readable: Sequence[_InspectedPicture]) -> Iterator[Finding]:
    fingerprints = [picture.fingerprint for picture in readable]
    exact = exact_copies(fingerprints)
    for indices in exact:
        yield _copy_finding("duplicate", "have the same pixels", [readable[i].sample for i in indices])
    repeated = {i for indices in exact for i in indices[1:]}
    firsts = [i for i in range(len(readable)) if i not in repeated]
    samples = [readable[i].sample for i in firsts]
    pairs = [
        (first, second)
        for first, second in near_copies([fingerprints[i] for i in firsts])
        if not _known_repeat(samples[first], samples[second])
    ]
    for indices in _connected_sets(pairs):
        how = "differ in size, encoding, exposure or orientation only"
        yield _copy_finding("near duplicate", how, [samples[i] for i in indices])


def _copy_finding(kind: Kind, how: str, members: Sequence[Sample]) -> Finding:
    sentence = f"{len(members)} pictures {how}"
    labels = sorted({member.label for member in members})
    if len(labels) > 1:
        sentence += f", with different labels ({', '.join(labels)})"
    if len({member.split for member in members}) > 1:
        sentence += f", {_in_splits(members)}"
    return Finding(kind, sentence, _paths(members))


def _known_repeat(first: Sample, second: Sample) -> bool:
    """Whether two samples are in the same group and agree in label and split, so that they may be near duplicates."""
    agree = (first.group, first.label, first.split) == (second.group, second.label, second.split)
    return agree and first.group is not None


def _connected_sets(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the connected components of the graph whose edges are the pairs (by union-find)."""
    parent: dict[int, int] = {}

    def root_of(index: int) -> int:
        while (above := parent.setdefault(index, index)) != index:
            parent[index] = index = parent[above]
        return index

    for first, second in pairs:
        parent[root_of(second)] = root_of(first)
    sets: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(parent):
        sets[root_of(index)].append(index)
    return list(sets.values())


def _balance_findings(samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter(sample.label for sample in samples if sample.split in (None, "train"))
    for label, count in sorted(counts.items()):
        if count < _MIN_PICTURES:
            yield Finding("balance", f"class {label} has {count} training picture(s), fewer than {_MIN_PICTURES}")
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many > _MAX_CLASS_RATIO * few:
        ratio = f"more than {_MAX_CLASS_RATIO} to 1"
        yield Finding("balance", f"class {most} has {many} training pictures and class {least} {few}, {ratio}")


def _size_findings(readable: Sequence[_InspectedPicture], input_side_px: int) -> Iterator[Finding]:
    if small := [picture.sample for picture in readable if min(picture.size) < input_side_px]:
        sentence = f"{len(small)} picture(s) have a side below the model's {input_side_px} px and would be upsampled"
        yield Finding("size", sentence, _paths(small))
    if not readable:
        return
    sizes = np.array([picture.size for picture in readable], np.float64)
    ratios = sizes / np.median(sizes, axis=0)
    is_far = np.maximum(ratios, 1 / ratios).max(axis=1) > _MAX_SIDE_RATIO
    odd = [picture.sample for picture, far_off in zip(readable, is_far, strict=True) if far_off]
    if odd:
        sentence = f"{len(odd)} picture(s) have a side that differs from the median by a factor above {_MAX_SIDE_RATIO}"
        yield Finding("size", sentence, _paths(odd))


def _colour_findings(readable: Sequence[_InspectedPicture]) -> Iterator[Finding]:
    """Yield a finding for each rarer colour mode, with its classes, since a model could learn the mode instead."""
    common = Counter(picture.colour for picture in readable).most_common()
    for colour, count in common[1:]:
        members = [picture.sample for picture in readable if picture.colour == colour]
        labels = Counter(member.label for member in members)
        classes = ", ".join(f"{labels[label]} {label}" for label in sorted(labels))
        sentence = f"{count} picture(s) are {colour} ({classes}), but most are {common[0][0]}"
        yield Finding("colour", sentence, _paths(members))


def _facts(samples: Sequence[Sample], readable: Sequence[_InspectedPicture]) -> tuple[str, ...]:
    """Describe the data: pictures by class and split, sizes, and colour modes."""
    counts = Counter((sample.label, sample.split) for sample in samples)
    splits = [split for split in (*SPLITS, None) if any(split == other for _, other in counts)]
    labels = sorted({sample.label for sample in samples})
    width = max(map(len, labels))
    facts = [" " * width + "".join(f"{split or 'pictures':>12}" for split in splits)]
    facts += [f"{label:{width}}" + "".join(f"{counts[label, split]:12}" for split in splits) for label in labels]
    if readable:
        names = ("smallest", "median", "largest")
        sides = np.percentile([picture.size for picture in readable], [0, 50, 100], axis=0, method="nearest")
        facts.append("sides: " + ", ".join(f"{n} {w} × {h} px" for n, (w, h) in zip(names, sides, strict=True)))
        colours = Counter(picture.colour for picture in readable).most_common()
        facts.append("colours: " + ", ".join(f"{count} {colour}" for colour, count in colours))
    return tuple(facts)


def _in_splits(members: Iterable[Sample]) -> str:
    return f"in more than one split ({', '.join(sorted({str(member.split) for member in members}))})"


def _paths(members: Iterable[Sample]) -> tuple[Path, ...]:
    return tuple(member.path for member in members)
