"""The metrics of heatmaps: definitions, sources, and which direction is better."""

from __future__ import annotations

from typing import NamedTuple

from training.heatmaps.faithfulness import ROAD_FRACTIONS, STEPS
from training.heatmaps.imputation import NOISE
from training.heatmaps.measure import BLUR_SIGMA_SHARE, JPEG_QUALITY, SHIFT_SHARE


class Metric(NamedTuple):
    """A metric: its short title, whether higher values are better, its definition, and its source."""

    title: str
    higher_is_better: bool
    definition: str
    source: str


SCORE_DEFINITION = "probability of the explained class, which is the service's answer, at the bundle's temperature"

METRICS = {
    "insertion": Metric(
        "insertion",
        True,
        "Area under the score while pixels of the blurred picture (Gaussian, standard deviation "
        f"{100 * BLUR_SIGMA_SHARE:.1f} % of the shorter side) are replaced by those of the picture, highest in the "
        f"heatmap first, in {STEPS} equal steps.",
        "Petsiuk et al. 2018",
    ),
    "deletion": Metric(
        "deletion",
        False,
        "Area under the score while pixels of the picture are replaced by its mean colour, highest in the heatmap "
        f"first, in {STEPS} equal steps.",
        "Petsiuk et al. 2018",
    ),
    "road": Metric(
        "ROAD",
        True,
        "Score without the lowest pixels minus score without the highest pixels, mean over "
        f"{', '.join(f'{100 * fraction:.0f}' for fraction in ROAD_FRACTIONS)} % of the pixels. A removed pixel is "
        f"the weighted mean of its neighbours plus noise (standard deviation {100 * NOISE:.0f} % of the range). "
        "Chance is 0.",
        "Rong et al. 2022",
    ),
    "average_drop": Metric(
        "drop",
        False,
        "Relative loss of the score (0 if it rises) when each pixel is multiplied by the heatmap's positive part, "
        "scaled to a maximum of 1. Large heatmaps lose little, and a uniform one loses nothing.",
        "Chattopadhay et al. 2018",
    ),
    "increase": Metric(
        "increase",
        True,
        "Share of pictures whose score rises under the same multiplication.",
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
        "Share of the heatmap's positive part that lies in the mask; 0 if there is no positive part.",
        "Wang et al. 2020",
    ),
    "shift": Metric(
        "shift",
        True,
        "Pearson correlation of the signed heatmap with that of the picture shifted by "
        f"{100 * SHIFT_SHARE:.1f} % of its sides, down and right, and up and left, over the part that both cover. "
        "A heatmap that ignores the picture is stable too.",
        "after Alvarez-Melis & Jaakkola 2018",
    ),
    "jpeg": Metric(
        "JPEG",
        True,
        f"Correlation of the signed heatmap with that of the model's input saved as JPEG of quality {JPEG_QUALITY}.",
        "as shift",
    ),
}

# The mean rank is over these metrics, which neither a uniform heatmap nor one that ignores the picture can win.
RANKED_METRICS = ("insertion", "deletion", "road", "pointing", "energy")
