"""What is wrong with a data set before anyone trains on it: findings to act on, and plain facts beside them."""

from __future__ import annotations

import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from app.errors import FusionLensError
from app.pictures.decode import Limits, decode
from training.data.duplicates import Fingerprint, exact_copies, fingerprint, near_copies
from training.data.samples import SPLITS, DataError, Sample, groups_on_two_sides, read_samples, split_samples

Kind = Literal["unreadable", "note", "group", "split", "duplicate", "near duplicate", "balance", "size", "colour"]

_MIN_PICTURES, _MAX_CLASS_RATIO, _MAX_SIDE_RATIO = 10, 20, 3
_SHOWN_FINDINGS, _SHOWN_PATHS = 5, 4


@dataclass(frozen=True)
class Finding:
    """Something to put right, or to know the reason of: a sentence, and the pictures that it is about."""

    kind: Kind
    sentence: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was found in the data in the folder `root`. Facts call for nothing."""

    root: Path
    facts: tuple[str, ...]
    findings: tuple[Finding, ...]

    def text(self) -> str:
        """The report as lines for a terminal. Long lists are cut, and say so."""
        lines = [*self.facts, ""]
        for kind, count in Counter(finding.kind for finding in self.findings).items():
            for finding in [finding for finding in self.findings if finding.kind == kind][:_SHOWN_FINDINGS]:
                lines.append(f"{kind}: {finding.sentence}")
                lines += [f"    {path.relative_to(self.root)}" for path in finding.paths[:_SHOWN_PATHS]]
                if (more := len(finding.paths) - _SHOWN_PATHS) > 0:
                    lines.append(f"    and {more} more")
            if (more := count - _SHOWN_FINDINGS) > 0:
                lines.append(f"{kind}: {more} more like these")
        lines.append(f"{len(self.findings)} finding(s)" if self.findings else "nothing found")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Seen:
    """A picture that can be read, as it was seen."""

    sample: Sample
    size: tuple[int, int]  # width, height
    colour: str
    notes: tuple[str, ...]
    fingerprint: Fingerprint


def examine(root: Path, input_side_px: int = 224) -> Report:
    """Read every picture of `root`, as `read_samples` finds them, and report on them.

    Pictures whose shorter side is below `input_side_px` are a finding. Near duplicates within a group are none, where
    they agree in label and split. Raises DataError for data that cannot be used at all.
    """
    samples = read_samples(root)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = tqdm(pool.map(_look, samples), "reading", len(samples), unit=" pictures", disable=None)
        results = list(zip(samples, looks, strict=True))
    seen = [look for _, look in results if isinstance(look, _Seen)]
    broken = [(look, sample.path) for sample, look in results if isinstance(look, str)]
    findings = [
        *_grouped("unreadable", broken),
        *_grouped("note", [(note, look.sample.path) for look in seen for note in look.notes]),
        *_splits(samples),
        *_copies(seen),
        *_balance(samples),
        *_sizes(seen, input_side_px),
        *_colours(seen),
    ]
    return Report(root if root.is_dir() else root.parent, _facts(samples, seen), tuple(findings))


def _look(sample: Sample) -> _Seen | str:
    """The picture as serving would see it, or why it would refuse it."""
    try:
        data = sample.path.read_bytes()
        picture = decode(data, Limits())
    except (FusionLensError, OSError) as error:
        return str(error)
    with Image.open(io.BytesIO(data), formats=[picture.format]) as image:
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
        colour = "grey" if grey else "CMYK" if image.mode == "CMYK" else "colour"
        if image.has_transparency_data:
            colour += " with transparency"
    return _Seen(sample, picture.image.size, colour, picture.notes, fingerprint(np.asarray(picture.image)))


def _grouped(kind: Kind, cases: Iterable[tuple[str, Path]]) -> Iterator[Finding]:
    """One finding for each sentence, with all the pictures that it is about."""
    paths: defaultdict[str, list[Path]] = defaultdict(list)
    for sentence, path in cases:
        paths[sentence].append(path)
    for sentence, found in paths.items():
        yield Finding(kind, f"{len(found)} picture(s): {sentence}", tuple(found))


def _splits(samples: Sequence[Sample]) -> Iterator[Finding]:
    """What a training run would refuse: groups on two sides, or else classes that miss one."""
    leaks = groups_on_two_sides(samples)
    for group, members in leaks.items():
        yield Finding("group", f"group {group} is {_sides(members)}", _paths(members))
    if not leaks:
        try:
            split_samples(samples, val_share=0.2, seed=0)
        except DataError as error:
            yield Finding("split", str(error))


def _copies(seen: Sequence[_Seen]) -> Iterator[Finding]:
    prints = [look.fingerprint for look in seen]
    exact = exact_copies(prints)
    for indices in exact:
        yield _copy_finding("duplicate", "have the same pixels", [seen[i].sample for i in indices])
    again = {i for indices in exact for i in indices[1:]}
    firsts = [i for i in range(len(seen)) if i not in again]
    samples = [seen[i].sample for i in firsts]
    pairs = [
        (first, second)
        for first, second in near_copies([prints[i] for i in firsts])
        if not _seen_again(samples[first], samples[second])
    ]
    for indices in _connected(pairs):
        how = "differ in size, encoding, exposure or orientation only"
        yield _copy_finding("near duplicate", how, [samples[i] for i in indices])


def _copy_finding(kind: Kind, how: str, members: Sequence[Sample]) -> Finding:
    sentence = f"{len(members)} pictures {how}"
    labels = sorted({member.label for member in members})
    if len(labels) > 1:
        sentence += f", with different labels ({', '.join(labels)})"
    if len({member.split for member in members}) > 1:
        sentence += f", {_sides(members)}"
    return Finding(kind, sentence, _paths(members))


def _seen_again(first: Sample, second: Sample) -> bool:
    """Whether two samples are known to show the same thing, and nothing is wrong with that."""
    same_place = (first.group, first.label, first.split) == (second.group, second.label, second.split)
    return same_place and first.group is not None


def _connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The sets of indices that chains of pairs connect."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while (above := parent.setdefault(index, index)) != index:
            parent[index] = index = parent[above]
        return index

    for first, second in pairs:
        parent[root(second)] = root(first)
    sets: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(parent):
        sets[root(index)].append(index)
    return list(sets.values())


def _balance(samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter(sample.label for sample in samples if sample.split in (None, "train"))
    for label, count in sorted(counts.items()):
        if count < _MIN_PICTURES:
            yield Finding("balance", f"class {label} has {count} picture(s) to train on, fewer than {_MIN_PICTURES}")
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many > _MAX_CLASS_RATIO * few:
        ratio = f"more than {_MAX_CLASS_RATIO} to 1"
        yield Finding("balance", f"class {most} has {many} pictures to train on and class {least} {few}, {ratio}")


def _sizes(seen: Sequence[_Seen], input_side_px: int) -> Iterator[Finding]:
    if small := [look.sample for look in seen if min(look.size) < input_side_px]:
        sentence = f"{len(small)} picture(s) have a side below the model's {input_side_px} px and would be enlarged"
        yield Finding("size", sentence, _paths(small))
    if not seen:
        return
    sizes = np.array([look.size for look in seen], np.float64)
    ratios = sizes / np.median(sizes, axis=0)
    far = np.maximum(ratios, 1 / ratios).max(axis=1) > _MAX_SIDE_RATIO
    odd = [look.sample for look, is_far in zip(seen, far, strict=True) if is_far]
    if odd:
        sentence = f"{len(odd)} picture(s) have a side more than {_MAX_SIDE_RATIO} times off the median"
        yield Finding("size", sentence, _paths(odd))


def _colours(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """A mixture is a finding, with its classes: a model can learn the colour mode in place of what is shown."""
    common = Counter(look.colour for look in seen).most_common()
    for colour, count in common[1:]:
        members = [look.sample for look in seen if look.colour == colour]
        labels = Counter(member.label for member in members)
        classes = ", ".join(f"{labels[label]} {label}" for label in sorted(labels))
        sentence = f"{count} picture(s) are {colour} ({classes}), but most are {common[0][0]}"
        yield Finding("colour", sentence, _paths(members))


def _facts(samples: Sequence[Sample], seen: Sequence[_Seen]) -> tuple[str, ...]:
    """The table of classes and splits, and the range of sizes and colours."""
    counts = Counter((sample.label, sample.split) for sample in samples)
    splits = [split for split in (*SPLITS, None) if any(found == split for _, found in counts)]
    labels = sorted({sample.label for sample in samples})
    width = max(map(len, labels))
    facts = [" " * width + "".join(f"{split or 'pictures':>10}" for split in splits)]
    facts += [f"{label:{width}}" + "".join(f"{counts[label, split]:10}" for split in splits) for label in labels]
    if seen:
        names = ("smallest", "median", "largest")
        sides = np.percentile([look.size for look in seen], [0, 50, 100], axis=0, method="nearest")
        facts.append("sides: " + ", ".join(f"{n} {w} × {h} px" for n, (w, h) in zip(names, sides, strict=True)))
        colours = Counter(look.colour for look in seen).most_common()
        facts.append("colours: " + ", ".join(f"{count} {colour}" for colour, count in colours))
    return tuple(facts)


def _sides(members: Iterable[Sample]) -> str:
    return f"on more than one side ({', '.join(sorted({str(member.split) for member in members}))})"


def _paths(members: Iterable[Sample]) -> tuple[Path, ...]:
    return tuple(member.path for member in members)
