"""What is measured of heatmaps: each figure's definition, its source, and which way is better."""

from __future__ import annotations

from typing import NamedTuple

from training.heatmaps.faithfulness import ROAD_FRACTIONS, STEPS
from training.heatmaps.imputation import NOISE
from training.heatmaps.measure import BLUR_SIGMA_SHARE, JPEG_QUALITY, SHIFT_SHARE


class Metric(NamedTuple):
    """A figure's short name, whether more of it is better, what it is, and whose it is."""

    title: str
    higher_is_better: bool
    definition: str
    source: str


SCORE_DEFINITION = "probability of the explained class, which is the service's answer, at the bundle's temperature"

METRICS = {
    "insertion": Metric(
        "insertion",
        True,
        "Area under the score while the picture comes into its own blur (Gaussian of "
        f"{100 * BLUR_SIGMA_SHARE:.1f} % of the shorter side), highest pixels of the heatmap first, in {STEPS} "
        "equal steps.",
        "Petsiuk et al. 2018",
    ),
    "deletion": Metric(
        "deletion",
        False,
        "Area under the score while the picture gives way to its mean colour, highest pixels of the heatmap first, in "
        f"{STEPS} equal steps.",
        "Petsiuk et al. 2018",
    ),
    "road": Metric(
        "ROAD",
        True,
        "Score without the lowest pixels less score without the highest, mean over "
        f"{', '.join(f'{100 * fraction:.0f}' for fraction in ROAD_FRACTIONS)} % of the pixels. Removed ones are the "
        f"weighted mean of their neighbours plus noise (standard deviation {100 * NOISE:.0f} % of the range). "
        "Chance is 0.",
        "Rong et al. 2022",
    ),
    "average_drop": Metric(
        "drop",
        False,
        "Relative loss of the score (0 where it rises) when each pixel is multiplied by the heatmap's positive part "
        "over its maximum. Large heatmaps lose little: an even one nothing.",
        "Chattopadhay et al. 2018",
    ),
    "increase": Metric(
        "increase",
        True,
        "Share of pictures whose score rises in that way.",
        "Chattopadhay et al. 2018",
    ),
    "pointing": Metric(
        "pointing",
        True,
        "Share of pictures in which the heatmap's maximum lies in the mask, without tolerance.",
        "Zhang et al. 2016",
    ),
    "energy": Metric(
        "energy",
        True,
        "Share of the heatmap's positive part that lies in the mask; 0 where there is none.",
        "Wang et al. 2020",
    ),
    "shift": Metric(
        "shift",
        True,
        "Correlation (Pearson) of the signed heatmap with that of the picture moved by "
        f"{100 * SHIFT_SHARE:.1f} % of its sides, down and right, and up and left, over what both show. A heatmap that "
        "ignores the picture is stable too.",
        "after Alvarez-Melis & Jaakkola 2018",
    ),
    "jpeg": Metric(
        "JPEG",
        True,
        f"Correlation of the signed heatmap with that of the model's input saved as JPEG of quality {JPEG_QUALITY}.",
        "as shift",
    ),
}

# What the mean rank is taken over: neither an even heatmap nor one that ignores the picture can win these.
RANKED_METRICS = ("insertion", "deletion", "road", "pointing", "energy")
