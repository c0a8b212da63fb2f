"""The columns of a job's rows, and the rows of pictures that were predicted and of those that were refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from app.batch.entries import Entry, shown
from app.batch.refusals import MissingFile, UnreadableFile
from app.errors import (
    EmptyUpload,
    FusionLensError,
    PictureTooLarge,
    UnreadablePicture,
    UnsupportedMediaType,
    UploadTooLarge,
)
from app.models.feature_maps import to_float16
from app.predicting.answer import Answer
from app.shapes import Float32
from app.trust.assessment import Assessment

Row = dict[str, Any]
# The stable names of what a picture is refused with, as in the problems of the HTTP API where it has the same.
REASONS: dict[type[FusionLensError], str] = {
    EmptyUpload: "empty-upload",
    MissingFile: "missing-file",
    PictureTooLarge: "picture-too-large",
    UnreadableFile: "unreadable-file",
    UnreadablePicture: "unreadable-picture",
    UnsupportedMediaType: "unsupported-media-type",
    UploadTooLarge: "upload-too-large",
}
REFUSED = (*REASONS,)  # what is a row, and not the end of the job


@dataclass(frozen=True)
class Columns:
    """What the rows of a job have. `methods` are those of its heatmaps."""

    classes: tuple[str, ...]
    has_trust: bool
    methods: tuple[str, ...]
    has_overlays: bool

    def schema(self) -> pa.Schema:
        """The columns with their types. All but `path`, `notes` and `time_ms` are null where they do not apply."""
        by_class = pa.struct([pa.field(name, pa.float64()) for name in self.classes])
        texts = pa.list_(pa.string())
        columns: list[tuple[str, pa.DataType]] = [
            ("path", pa.string()),
            ("member", pa.string()),
            ("sha256", pa.string()),
            ("label", pa.string()),
            ("probabilities", by_class),
        ]
        if self.has_trust:
            columns += [("decision", pa.string()), ("reasons", texts), ("prediction_set", texts)]
            columns += [("coverage", pa.float64()), ("calibrated_probabilities", by_class)]
            columns += [("in_distribution", pa.bool_()), ("novelty_percentile", pa.float64())]
        for method in self.methods:
            columns.append((f"heatmap_{method}", pa.list_(pa.list_(pa.float16()))))
            columns += [(f"overlay_{method}", pa.string())] if self.has_overlays else []
        columns += [("notes", texts), ("time_ms", pa.float64()), ("error", pa.string()), ("error_detail", pa.string())]
        return pa.schema(columns)


def named(entry: Entry) -> Row:
    """The columns that say which picture a row is of."""
    return {"path": shown(entry.path), "member": entry.member and shown(entry.member.name)}


def answered(answer: Answer, assessment: Assessment | None) -> Row:
    """The columns of an answer, and those of the trust part where the bundle has one."""
    row: Row = {"label": answer.label, "probabilities": answer.probabilities}
    if assessment is not None:
        row |= {
            "decision": assessment.decision,
            "reasons": [reason.code for reason in assessment.reasons],
            "prediction_set": list(assessment.prediction_set),
            "coverage": assessment.coverage,
            "calibrated_probabilities": assessment.probabilities,
            "in_distribution": assessment.in_distribution,
            "novelty_percentile": assessment.novelty_percentile,
        }
    return row


def heatmap(method: str, values: Float32[np.ndarray, "h w"]) -> Row:
    """The column of a heatmap: its rows as float16, in the units of the method."""
    return {f"heatmap_{method}": list(to_float16(values))}


def refused(error: FusionLensError) -> Row:
    """The columns of a picture that has no answer. `error` is one of `REFUSED`."""
    return {"notes": [], "error": REASONS[type(error)], "error_detail": str(error)}
