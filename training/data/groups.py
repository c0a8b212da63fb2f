"""Groups as a table names them: one group for all spellings of its name, and none for a value that is missing.

Pictures of one patient in two groups could stand on both sides of a split, and then val would measure what the model
remembers. So names that may be one are one. Pictures of unknown patients are no group, which a split could not part.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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
    return _key(re.sub(r"\s+", "", appearance(group or "").casefold()))


def value_key(value: str | None) -> Hashable | None:
    """What all spellings of a column's value have in common, as `group_key`, but that blanks part words."""
    return _key(appearance(value or "").casefold())


def _key(folded: str) -> Hashable | None:
    closed = re.sub(r"\s+", "", folded)
    says_something = any(unicodedata.category(each)[0] in "LNS" for each in closed)  # no mere dash or question mark
    if is_missing(closed) or closed in _UNKNOWN or not says_something:
        return None
    number = as_number(folded)
    return folded if number is None else number


def settle_groups(samples: Sequence[Sample]) -> tuple[list[Sample], list[Finding]]:
    """Give all pictures of a group its first spelling, and pictures of an unknown one no group. Say what was done."""
    pictures = Counter(sample.group for sample in samples if sample.group is not None)  # in the order of the samples
    first, merged = first_spellings(pictures, group_key)
    unknown = Counter({group: count for group, count in pictures.items() if group not in first})
    settled = [sample if sample.group is None else replace(sample, group=first.get(sample.group)) for sample in samples]
    findings = [Finding("group", merged_names(merged, "group"))] if merged else []
    return settled, [*findings, *_unknown_findings(unknown)]


def first_spellings(
    names: Iterable[str], key_of: Callable[[str], Hashable | None]
) -> tuple[dict[str, str], list[list[str]]]:
    """Return the first spelling of each name that has a key, and the sets of several spellings with one key."""
    spellings: dict[Hashable, list[str]] = {}
    for name in names:
        if (key := key_of(name)) is not None:
            spellings.setdefault(key, []).append(name)
    first = {spelling: alike[0] for alike in spellings.values() for spelling in alike}
    return first, [alike for alike in spellings.values() if len(alike) > 1]


def merged_names(merged: Sequence[Sequence[str]], what: str) -> str:
    """The sentence on groups or values, which is `what` they are, of which each has several spellings."""
    sets = [
        " and ".join(map(ascii if len({*map(appearance, names)}) == 1 else shown, sorted(names))) for names in merged
    ]
    more = f"; and {len(sets) - _SHOWN} more" if len(sets) > _SHOWN else ""
    return (
        f"{len(sets)} {what}(s) have several spellings, which differ only in case, blanks, look or the form of a "
        f"number ({'; '.join(sets[:_SHOWN])}{more}): each was read as one {what}; rename what is not the same"
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
