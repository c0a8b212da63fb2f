"""The training pictures that a picture resembles most, by the model's own maps: an index of cases, searched exactly.

The mean of each branch's map over its cells is projected onto the leading principal components of the training
pictures' means. Pictures are compared by the mean over branches of the cosine of these projections, as Caruana et al.
1999, "Case-based explanation of non-case-based learning methods", compare cases by a network's hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.bundles.manifest import CasesChoice
from app.models.feature_maps import Branch
from app.shapes import Bool, Float, Float16, Float32, Int

MOST_DIMENSIONS = 128  # of a case, over all branches
MOST_CASES = 100  # of one question


@dataclass(frozen=True, eq=False)
class Projection:
    """The leading directions of a branch's pooled maps about their mean, as columns."""

    mean: Float32[np.ndarray, " c"]
    basis: Float16[np.ndarray, "c q"]

    @cached_property
    def _directions(self) -> Float32[np.ndarray, "c q"]:
        return self.basis.astype(np.float32)

    def of(self, features: Float[np.ndarray, "n c"]) -> Float32[np.ndarray, "n q"]:
        """The projections of pooled maps, of unit length; 0 for the mean itself."""
        projected = np.asarray((features - self.mean) @ self._directions, np.float32)
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.asarray(projected / np.where(lengths > 0, lengths, 1))


@dataclass(frozen=True)
class Case:
    """A training picture. `similarity` is from -1 to 1, for a picture and itself.

    `name` is the digest of its file, or its path in the data if the bundle's card allows that. `group` is the name of
    its group and `thumbnail` a small JPEG, where the card allows them. `is_local` says that `recalibrate` added it.
    """

    name: str
    label: str
    similarity: float
    group: str | None
    is_local: bool
    thumbnail: bytes | None


@dataclass(frozen=True, eq=False)
class CaseIndex:
    """All cases. `labels` are places in `classes`, and `groups` numbers: no two of the nearest are of one group.

    `group_names` has the name of each number, and `thumbnails` a JPEG for each case; None where `shows` does not allow
    them. What `app.cases.stored` reads has been checked.
    """

    shows: CasesChoice
    classes: tuple[str, ...]
    projections: Mapping[Branch, Projection]
    vectors: Float16[np.ndarray, "n q"]
    labels: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    is_local: Bool[np.ndarray, " n"]
    names: tuple[str, ...]
    group_names: tuple[str, ...] | None = None
    thumbnails: tuple[bytes, ...] | None = None

    @cached_property
    def _wide(self) -> Float32[np.ndarray, "n q"]:
        return self.vectors.astype(np.float32)

    def nearest(self, features: Mapping[Branch, Float[np.ndarray, " _c"]], count: int) -> list[Case]:
        """The cases that are most similar, the most similar first, at most one of each group."""
        (vector,) = vectors_of(self.projections, {branch: each[None] for branch, each in features.items()})
        similarities = self._wide @ vector
        return [self._case(place, float(similarities[place])) for place in self._best(similarities, count)]

    def _best(self, similarities: Float32[np.ndarray, " n"], count: int) -> list[int]:
        """The places of the most similar cases of different groups. Of equals, the first one."""
        wanted = min(count, len(similarities))
        while True:
            candidates = np.argpartition(-similarities, wanted - 1)[:wanted]
            ranked = candidates[np.lexsort((candidates, -similarities[candidates]))]
            _, first = np.unique(self.groups[ranked], return_index=True)
            if len(first) >= count or wanted == len(similarities):
                return [int(place) for place in ranked[np.sort(first)][:count]]
            wanted = min(2 * wanted, len(similarities))  # several of a group are among them

    def _case(self, place: int, similarity: float) -> Case:
        return Case(
            self.names[place],
            self.classes[self.labels[place]],
            similarity,
            None if self.group_names is None else self.group_names[self.groups[place]],
            bool(self.is_local[place]),
            None if self.thumbnails is None else self.thumbnails[place],
        )


def vectors_of(
    projections: Mapping[Branch, Projection], features: Mapping[Branch, Float[np.ndarray, "n _c"]]
) -> Float32[np.ndarray, "n q"]:
    """The branches' projections side by side, so that the product of two vectors is the mean of their cosines."""
    parts = [projection.of(features[branch]) for branch, projection in projections.items()]
    return np.asarray(np.concatenate(parts, axis=1) / np.float32(len(parts) ** 0.5))
