"""Masks: pictures that are white where the labelled thing is, each of its picture's size.

Training does not use them; the localisation of heatmaps is measured in them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from app.errors import FusionLensError
from app.pictures.decode import decode
from training.data.limits import TRAINING_LIMITS
from training.data.sample import DataError, Finding, Sample


class MaskError(DataError):
    """A mask that cannot be used. `fault` says what is wrong, without the mask's path."""

    def __init__(self, path: Path, fault: str, details: str) -> None:
        super().__init__(f"{path}{details}")
        self.fault = fault


def open_mask(path: Path, picture_size: tuple[int, int]) -> Image.Image:
    """Read the mask of a picture of this width and height: 255 inside, where it is brighter than half, and 0 outside.

    Raises MaskError for a mask that cannot be read, has another size, or is empty.
    """
    try:
        mask = decode(path.read_bytes(), TRAINING_LIMITS)
    except (FusionLensError, OSError) as error:
        raise MaskError(path, "cannot be read", f": {error}") from error
    size = (mask.width_px, mask.height_px)
    if size != picture_size:
        raise MaskError(
            path,
            "are of another size than their pictures",
            f" is {size[0]} × {size[1]} px, but its picture {picture_size[0]} × {picture_size[1]}: align them",
        )
    inside = mask.image.convert("L").point(lambda level: 255 * (level > 127))
    if inside.getbbox() is None:
        raise MaskError(path, "are empty", " is empty: the inside must be white; or leave the mask out of the table")
    return inside


def mask_fault(sample: Sample, picture_size: tuple[int, int]) -> tuple[str, str] | None:
    """What is wrong with a sample's mask, as a few words and as a sentence. None if nothing is, or if it has none."""
    if sample.mask is None:
        return None
    try:
        inside = open_mask(sample.mask, picture_size)
    except MaskError as error:
        return error.fault, str(error)
    if inside.getextrema() == (255, 255):
        return "are white everywhere", f"{sample.mask} is white everywhere: the outside must be black"
    return None


def mask_findings(samples: Sequence[Sample], faults: Mapping[Sample, tuple[str, str]]) -> Iterator[Finding]:
    """Yield findings about all masks of a data set. `faults` are those of `mask_fault`."""
    for fault in sorted({fault for fault, _ in faults.values()}):
        affected = {sample: sentence for sample, (other, sentence) in faults.items() if other == fault}
        masks = tuple(sample.mask for sample in affected if sample.mask is not None)
        yield Finding("mask", f"{len(masks)} mask(s) {fault}: {next(iter(affected.values()))}", masks)
    masked = Counter(sample.label for sample in samples if sample.mask is not None)
    if without := [sample.path for sample in samples if sample.mask is None and masked[sample.label]]:
        yield Finding("mask", f"{len(without)} picture(s) have no mask, but others of their class have", tuple(without))
    pictures: defaultdict[Path, list[Path]] = defaultdict(list)
    for sample in samples:
        if sample.mask is not None:
            pictures[sample.mask].append(sample.path)
    for mask, paths in pictures.items():
        if len(paths) > 1:
            yield Finding("mask", f"{mask.name} is the mask of {len(paths)} pictures", tuple(paths))
    of_data = {sample.path for sample in samples}
    if listed := tuple(mask for mask in pictures if mask in of_data):
        yield Finding("mask", f"{len(listed)} mask(s) are listed as pictures of the data too", listed)


def mask_facts(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield a fact that counts the masks, if there are any."""
    if masks := sum(sample.mask is not None for sample in samples):
        yield f"masks: {masks} of {len(samples)} pictures have one"
