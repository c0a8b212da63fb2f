"""Adds a trust part to a bundle by labelled pictures, and says how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.bundles.manifest import CasesChoice
from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from training.data.samples import DataError, Sample, groups_in_several_splits, read_data_set, refuse_unreadable
from training.output import refuse_to_overwrite
from training.runs.run import kept_samples
from training.trust.fit import TrustFit, TrustProblem, calibration_split, fit_trust
from training.trust.goals import goals_text
from training.trust.write import write_with_trust


@dataclass(frozen=True, eq=False)
class AddedTrust:
    """A bundle with its new trust part."""

    bundle: Bundle
    fit: TrustFit

    def text(self) -> str:
        """How the calibration maps compared, the figures, and whether they reach the goals."""
        section = self.fit.section
        lines = [
            f"fitted on {section.chosen_on}",
            "",
            "calibration map: Brier score, log loss (excess over the best ± error)",
        ]
        for row in self.fit.comparisons:
            chosen = ", taken" if row.kind == section.calibration else ""
            brier = f"{row.brier:.4f} (+{row.brier_excess:.4f} ± {row.brier_excess_error:.4f})"
            log_loss = f"{row.log_loss:.4f} (+{row.log_loss_excess:.4f} ± {row.log_loss_excess_error:.4f})"
            lines.append(f"  {row.kind}: {brier}, {log_loss}{chosen}")
        return "\n".join(
            [*lines, "", *goals_text(section), "", *(f"  {name}: {value:g}" for name, value in section.figures.items())]
        )


def add_trust(
    path: Path, out: Path, data: Path, split: str | None, inside: float | None = None, with_cases: bool = False
) -> AddedTrust:
    """Copy the bundle in `path` to the folder `out` with a trust part that is fitted to the pictures of `data`.

    Novelty is fitted to the split train, if there is one, and all else to `split`: by default calibration or else val,
    or all pictures if there are no splits. `inside` is the share of these that count as in distribution. If the bundle
    has an index of similar cases, or `with_cases` is set, an index is made of train. Raises TrustProblem, OutputError,
    DataError, RunError, BundleError and EngineError.
    """
    refuse_to_overwrite(out)
    bundle = read_bundle(path)
    train, calibration, name = splits_of(data, split)
    section = bundle.manifest.cases
    shows = (
        CasesChoice(**section.model_dump(exclude={"pictures"})) if section else CasesChoice() if with_cases else None
    )
    if with_cases and not train:
        raise TrustProblem(f"an index of similar cases is made of train, but {data} has no such split")
    fit = fit_trust(bundle, load_engine(bundle, "auto"), train, calibration, name, inside, shows)
    return AddedTrust(write_with_trust(bundle, out, fit.section, fit.fitted, fit.cases), fit)


def splits_of(data: Path, split: str | None) -> tuple[Sequence[Sample], Sequence[Sample], str]:
    """The pictures of train and of the split to calibrate on, and what the latter is called.

    Raises DataError, RunError, and TrustProblem for train, which a model knows.
    """
    samples = kept_samples(data) if (data / "samples.csv").is_file() else list(read_data_set(data).samples)
    if groups_in_several_splits(samples):
        raise DataError(f"{data} has groups in more than one split: put all pictures of a group into one")
    splits = {sample.split for sample in samples if sample.split}
    if split is None and splits:
        split = calibration_split(samples)
    if split == "train":
        raise TrustProblem("a trust part is not fitted to train, which the model knows: choose another split")
    train = [sample for sample in samples if sample.split == "train"]
    calibration = [sample for sample in samples if sample.split == split]
    if not calibration:
        others = sorted(splits - {"train"})
        advice = (
            f"choose --split from {', '.join(others)}"
            if others
            else "make a split val or calibration, or give other data"
        )
        raise DataError(f"{data} has no pictures in {split}: {advice}")
    refuse_unreadable([*train, *calibration])
    return train, calibration, split or "all pictures"
