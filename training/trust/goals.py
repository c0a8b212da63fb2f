"""What a trust part sets out to reach, beside what was found."""

from __future__ import annotations

from app.bundles.manifest import Trust

MOST_ERROR = 0.75


def goals_text(section: Trust) -> list[str]:
    """One sentence for each goal, with its figure and whether it is reached. All figures are cross-fitted."""
    found = section.figures
    excess, low, high = (found[f"calibration_error_debiased{end}"] for end in ("", ".low", ".high"))
    sentences = [
        f"calibration error, debiased: {excess:+.4f} ({low:+.4f} to {high:+.4f}; goal: 0 inside; plain "
        f"{found['calibration_error']:.4f}): {_reached(low <= 0 <= high)}"
    ]
    for name in section.pictures:
        share, low, high = (found[f"coverage.{name}{end}"] for end in ("", ".low", ".high"))
        sentences.append(
            f"coverage of {name} at {found['coverage']:g}: {share:.3f} (goal: {low:.3f} to {high:.3f}): "
            f"{_reached(low <= share <= high)}"
        )
    ratio = found["error_of_surest_80_by_error"]
    sentences.append(
        f"error of the surest 80 % ÷ error of all ({found['error']:.3f}): {ratio:.2f} (goal: ≤ {MOST_ERROR}): "
        f"{_reached(ratio <= MOST_ERROR)}"
    )
    sentences.append(
        f"answered: {found['answered']:.1%}, with {found['error_of_answered_by_error']:.2f} of the error of all; in "
        f"distribution: {found['in_distribution']:.1%} (meant: {section.inside:.1%})"
    )
    return sentences


def _reached(holds: bool) -> str:
    return "reached" if holds else "MISSED"
