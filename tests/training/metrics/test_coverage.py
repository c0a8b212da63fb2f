from __future__ import annotations

import numpy as np
import pytest

from training.metrics.coverage import coverage_interval


@pytest.mark.parametrize(("calibrated", "judged", "coverage"), [(100, 80, 0.9), (30, 7, 0.5), (9, 40, 0.9)])
def test_the_interval_holds_95_percent_of_what_is_drawn(calibrated: int, judged: int, coverage: float) -> None:
    rng = np.random.default_rng(0)
    calibration = np.sort(rng.random((20_000, calibrated)), axis=1)
    threshold = calibration[:, round(np.ceil((calibrated + 1) * coverage - 1e-9)) - 1]
    covered = (rng.random((20_000, judged)) <= threshold[:, None]).mean(axis=1)
    low, high = coverage_interval(calibrated, judged, coverage)
    assert ((covered >= low) & (covered <= high)).mean() >= 0.945
    assert (covered < low).mean() <= 0.03 and (covered > high).mean() <= 0.03


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        coverage_interval(8, 10, 0.9)
