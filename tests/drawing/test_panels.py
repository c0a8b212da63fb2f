"""Several drawings side by side: each is there as it is, over the colour bar that it is to be read by."""

from __future__ import annotations

import numpy as np
from PIL import Image

from app.drawing.overlay import Drawing, Style, colours, draw, legend_of
from app.drawing.panels import Panel, side_by_side
from app.pictures.rectangle import Rectangle
from app.shapes import UInt8
from tests.support.pictures import places

STYLE = Style("magma")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
WHOLE = Rectangle(0.0, 0.0, 120.0, 90.0)
WEAK = np.random.default_rng(1).random((7, 7), np.float32)


def drawn(heatmap: np.ndarray, scale: np.ndarray) -> Drawing:
    return draw(PICTURE, heatmap, WHOLE, STYLE, legend_of(scale, STYLE))


def bars(canvas: UInt8[np.ndarray, "h w 3"]) -> list[int]:
    """Widths of the runs, in rows of their own, that go from the colour map's first colour to its last."""
    first, last = colours("magma")[[0, -1]].astype(int)
    found = set()
    for row in canvas[110:].astype(int):
        starts, ends = (np.flatnonzero(np.abs(row - colour).max(axis=1) <= 3) for colour in (first, last))
        steps = np.abs(np.diff(row, axis=0)).max(axis=1)
        for start in starts[np.diff(starts, prepend=-2) > 1]:
            run = start + int(np.argmax(np.append(steps[start:], 255) > 40))
            if run in ends and run - start > 50:
                found.add((int(start), run - int(start) + 1))
    return sorted(width for _, width in found)


def test_every_panel_is_there_pixel_for_pixel_from_left_to_right() -> None:
    drawings = [drawn(heatmap, WEAK) for heatmap in (WEAK, WEAK[::-1], WEAK / 2)]
    canvas = side_by_side([Panel(str(n), drawing, "logit") for n, drawing in enumerate(drawings)])
    corners = [places(canvas, drawing.picture) for drawing in drawings]
    assert all(len(found) == 1 for found in corners)
    assert len({found[0][0] for found in corners}) == 1
    assert [found[0][1] for found in corners] == sorted(found[0][1] for found in corners)


def test_panels_on_one_scale_share_a_bar_and_others_have_their_own() -> None:
    one_scale = [Panel("a", drawn(WEAK, WEAK), "logit"), Panel("b", drawn(WEAK / 2, WEAK), "logit")]
    shared = side_by_side(one_scale)
    own = side_by_side([Panel("a", drawn(WEAK, WEAK), "unitless"), Panel("b", drawn(WEAK / 2, WEAK / 2), "unitless")])
    assert len(bars(shared)) == 1 and bars(shared)[0] > 2 * 120
    assert bars(own) == [120, 120]


def test_a_panel_without_positive_evidence_has_no_bar() -> None:
    nothing = draw(PICTURE, -WEAK, WHOLE, STYLE)
    assert bars(side_by_side([Panel("a", nothing, "logit"), Panel("b", nothing, "logit")])) == []
    with_one = side_by_side([Panel("a", nothing, "logit"), Panel("b", drawn(WEAK, WEAK), "logit")])
    assert len(bars(with_one)) == 1
