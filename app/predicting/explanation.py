"""What may be asked of a class activation map, and the explanation that answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from app.errors import BadParameter, NotOffered
from app.explain.attribution import Attribution, Completeness, Subject
from app.explain.fine import NOTE, finer
from app.explain.merge import BranchShare, Fuse, branch_shares
from app.explain.methods import DEFAULT, METHODS, fused, fusion_note, fusion_of, warnings_of
from app.models.feature_maps import Branch
from app.predicting.target import check_classes

View = Literal["fusion", "cnn", "swin"]
Detail = Literal["grid", "fine"]
DETAILS: tuple[Detail, ...] = get_args(Detail)


@dataclass(frozen=True)
class Question:
    """What is asked of a class activation map: of which branch, by which method, for which class.

    `target` None is the class that was answered. `against` is a class to contrast it with: what speaks for the target
    rather than for that class. `fuse` is how several branches become one map; with None it is their sum, or where a
    method's values have no unit the mean of the maps, each scaled to its maximum. `detail` fine takes several views of
    the picture for a finer map: see `app.explain.fine`.
    """

    view: View = "fusion"
    method: str = DEFAULT
    target: str | None = None
    against: str | None = None
    fuse: Fuse | None = None
    detail: Detail = "grid"

    def check(self, views: Sequence[View], classes: Sequence[str]) -> None:
        """Refuse what cannot be asked of a model with these views and classes. Raises BadParameter and NotOffered."""
        if self.method not in METHODS:
            raise BadParameter(f"Unknown method {self.method!r}: choose one of {', '.join(METHODS)}.")
        if self.detail not in DETAILS:
            raise BadParameter(f"Unknown detail {self.detail!r}: choose one of {', '.join(DETAILS)}.")
        if self.view not in views:
            raise NotOffered(f"This model has no {self.view} branch: choose one of {', '.join(views)}.")
        if METHODS[self.method].class_agnostic and (self.target or self.against):
            raise BadParameter(f"{self.method} is of no class: leave out target and against, or choose another method.")
        check_classes(classes, self.target, self.against)
        if self.fuse is not None and self.view != "fusion":
            raise BadParameter(f"With {self.view} alone there is nothing to fuse: leave out fuse, or ask for fusion.")
        if self.fuse is not None and len(views) == 2:
            raise NotOffered("This model has one branch, and nothing to fuse: leave out fuse.")
        fusion_of(self.method, self.fuse)


@dataclass(frozen=True)
class Explanation:
    """A signed map on the model's grid, and what it means.

    `target` is the class explained and `against` the one that it is contrasted with; both are None where the map is
    class-agnostic. `fuse` is how several branches became one map. `warnings` say what is amiss with this very map.
    `attention` is what an attention map was taken from: every head's and every query token's.
    """

    heatmap: Float32[np.ndarray, "h w"]
    method: str
    units: str
    branch: View | None
    target: str | None
    shares: Mapping[Branch, BranchShare]
    notes: tuple[str, ...] = ()
    against: str | None = None
    fuse: Fuse | None = None
    completeness: Completeness | None = None
    warnings: tuple[str, ...] = ()
    detail: Detail = "grid"
    attention: Float32[np.ndarray, "heads q_h q_w k_h k_w"] | None = None


def finest_grid(maps: Iterable[np.ndarray]) -> tuple[int, int]:
    """Rows and columns of the finest of some feature maps, axis by axis."""
    rows, columns = (max(side) for side in zip(*(feature_map.shape[1:] for feature_map in maps), strict=True))
    return rows, columns


def explain(subjects: Sequence[Subject], questions: Sequence[Question]) -> list[Explanation]:
    """The answers to questions that were checked, and that differ in view and fusion alone: of one computation.

    The first subject is the picture. Where there are more, they are its moved views, for fine detail.
    """
    found = [METHODS[questions[0].method].attribute(subject) for subject in subjects]
    grid = finest_grid(subjects[0].maps.values())
    return [
        _joined([_answer(*one, question) for one in zip(subjects, found, strict=True)], grid) for question in questions
    ]


def _joined(views: Sequence[Explanation], grid: tuple[int, int]) -> Explanation:
    if len(views) == 1:
        return views[0]
    heatmap = finer([view.heatmap for view in views], grid)
    if views[0].units != "logit":  # what does not add up keeps its values, not its sum
        heatmap = heatmap * np.float32(heatmap.size / views[0].heatmap.size)
    return replace(views[0], heatmap=heatmap, detail="fine", notes=(*views[0].notes, NOTE))


def _answer(subject: Subject, found: Attribution, question: Question) -> Explanation:
    """Of one branch, the fusion is the branch itself."""
    method = METHODS[question.method]
    shares = branch_shares(found.heatmaps)
    if method.units != "logit":
        shares = {branch: BranchShare(None, share.signed_sum) for branch, share in shares.items()}
    fuse: Fuse | None = None
    units, notes, seen = str(method.units), [method.note], dict(subject.maps)
    if question.view != "fusion":
        seen = {question.view: subject.maps[question.view]}
        heatmap = found.heatmaps[question.view]
    elif len(seen) == 1:
        (heatmap,) = found.heatmaps.values()
    else:
        fuse = fusion_of(question.method, question.fuse)
        heatmap = fused(found, fuse)
        units = units if fuse == "sum" else "unitless"
        notes.append(fusion_note(fuse))
    return Explanation(
        heatmap,
        question.method,
        units,
        question.view,
        question.target,
        shares,
        tuple(note for note in notes if note),
        question.against,
        fuse,
        found.completeness,
        warnings_of(question.method, seen, found.completeness),
    )
