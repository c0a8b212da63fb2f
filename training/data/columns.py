"""Further columns of a table: all spellings of a value are one, as those of a group are.

A clinic in two spellings would be two clinics: one to leave out, and one to train on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from training.data.groups import first_spellings, merged_names, value_key
from training.data.sample import Finding, Sample
from training.spelling import normalised


def settle_columns(samples: Sequence[Sample]) -> tuple[list[Sample], list[Finding]]:
    """Give all pictures with one value in a further column its first spelling there. Say what was done."""
    values: defaultdict[str, dict[str, None]] = defaultdict(dict)  # each once, in the order of the samples
    for sample in samples:
        for column, value in sample.columns.items():
            values[column][value] = None
    settled: dict[str, Mapping[str, str]] = {}
    findings = []
    for column in sorted(values):
        first, merged = first_spellings(values[column], value_key)
        if merged:
            settled[column] = first
            findings.append(Finding("note", f"column {column}: {merged_names(merged, 'value')}"))
    if not settled:
        return list(samples), []
    return [
        replace(
            sample,
            columns={column: settled.get(column, {}).get(value, value) for column, value in sample.columns.items()},
        )
        for sample in samples
    ], findings


def same_value(first: str, second: str) -> bool:
    """Whether two texts are spellings of one value of a column."""
    key = value_key(first)
    return normalised(first) == normalised(second) or (key is not None and key == value_key(second))
