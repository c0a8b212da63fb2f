"""Groups as a table names them: one group for all spellings of its name, and none for a value that is missing.

Pictures of one patient in two groups could stand on both sides of a split, and then val would measure what the model
remembers. So names that may be one are one. Pictures of unknown patients are no group, which a split could not part.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from app.bundles.texts import appearance, shown
from training.data.names import as_number, is_missing
from training.data.sample import Finding, Sample

# What people and programs write for a patient whom nobody knows, besides what they write for any missing value.
_UNKNOWN = {"na", "#na", "n.a.", "unknown", "missing", "notavailable"}
_SHOWN = 5


def group_key(group: str | None) -> Hashable | None:
    """What all spellings of a group have in common. None for no group and for a name that says that it is unknown.

    Spellings differ in case, in blanks, in characters that look alike and, of a number, in its form: `7`, `07`, `7.0`.
    """
    folded = re.sub(r"\s+", "", appearance(group or "").casefold())
    says_something = any(unicodedata.category(each)[0] in "LNS" for each in folded)  # no mere dash or question mark
    if is_missing(folded) or folded in _UNKNOWN or not says_something:
        return None
    number = as_number(folded)
    return folded if number is None else number


def settle_groups(samples: Sequence[Sample]) -> tuple[list[Sample], list[Finding]]:
    """Give all pictures of a group its first spelling, and pictures of an unknown one no group. Say what was done."""
    pictures = Counter(sample.group for sample in samples if sample.group is not None)  # in the order of the samples
    keys = {group: group_key(group) for group in pictures}
    unknown = Counter({group: count for group, count in pictures.items() if keys[group] is None})
    spellings: dict[Hashable, list[str]] = {}
    for group in pictures - unknown:
        spellings.setdefault(keys[group], []).append(group)
    first = {spelling: alike[0] for alike in spellings.values() for spelling in alike}
    settled = [sample if sample.group is None else replace(sample, group=first.get(sample.group)) for sample in samples]
    merged = [alike for alike in spellings.values() if len(alike) > 1]
    return settled, [*_merged_findings(merged), *_unknown_findings(unknown)]


def _merged_findings(merged: Sequence[Sequence[str]]) -> Iterator[Finding]:
    if not merged:
        return
    sets = [
        " and ".join(map(ascii if len({*map(appearance, names)}) == 1 else shown, sorted(names))) for names in merged
    ]
    more = f"; and {len(sets) - _SHOWN} more" if len(sets) > _SHOWN else ""
    yield Finding(
        "group",
        f"{len(sets)} group(s) have several spellings, which differ only in case, blanks, look or the form of a number "
        f"({'; '.join(sets[:_SHOWN])}{more}): each was read as one group; rename what is not the same",
    )


def _unknown_findings(unknown: Counter[str]) -> Iterator[Finding]:
    if unknown:
        names = ", ".join(f"{shown(name)} ({count})" for name, count in unknown.most_common(_SHOWN))
        yield Finding(
            "group",
            f"{unknown.total()} picture(s) have a group that says that it is unknown: {names}. Each was read as a "
            "group of its own, so pictures of one patient may be on both sides of a split: name the groups, or leave "
            "the cells empty",
        )
