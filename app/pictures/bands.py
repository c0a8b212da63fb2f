"""Large pictures in bands of rows, so that arithmetic on them needs little memory besides the picture."""

from __future__ import annotations

from collections.abc import Iterator

_BAND_PX = 1_000_000


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """The first row of each band and the row behind its last one, for a picture of this size in px."""
    rows = max(1, _BAND_PX // max(1, width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)
