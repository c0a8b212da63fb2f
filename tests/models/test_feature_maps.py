"""Rounding feature maps to fp16, which every stored prediction went through."""

from __future__ import annotations

import numpy as np
import pytest

from app.models.feature_maps import to_float16

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e-6, 1e-5, 6e-5, 1e-3, 1.0, 1e3])
def test_rounding_to_half_is_that_of_ieee(scale: float) -> None:
    values = (RNG.standard_normal(100_000) * scale).astype(np.float32)
    np.testing.assert_array_equal(to_float16(values), values.astype(np.float16))


def test_every_half_stays_as_it_is_and_ties_go_to_the_even_one() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(to_float16(halves.astype(np.float32)), halves)
    between = (halves[:-1].astype(np.float32) + halves[1:].astype(np.float32)) / 2
    for ties in (between, -between):
        np.testing.assert_array_equal(to_float16(ties), ties.astype(np.float16))
