"""The texts of a bundle: what people see of them is what programs read.

A name with an invisible character, or one that looks like another, cannot be told from it in a terminal, a log or a
page, and cannot be typed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

# They change the order of the text around them, so that it shows as another one (https://trojansource.codes).
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# These belong to the character before them, in emoji, Mongolian and East Asian names.
_VARIATIONS = frozenset(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_JOINERS = frozenset("\u200c\u200d")  # which Persian and Indic words need, and emoji of several parts
# Letters, marks and symbols without ink. All other invisible characters are of the categories below.
_WITHOUT_INK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_CONTROLS, _INVISIBLE = ("Cc", "Zl", "Zp", "Cs"), ("Cc", "Cf", "Zl", "Zp", "Cs")
# Letters of other scripts that most fonts draw like a Latin one, and signs like those of a keyboard.
_TWINS = {
    **str.maketrans("АВЕЅІЈКМНОРСТХУҮ", "ABESIJKMHOPCTXYY"),  # Cyrillic
    **str.maketrans("аеорсухѕіјһԁԛԝӏ", "aeopcyxsijhdqwl"),
    **str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοϳ", "ABEZHIKMNOPTYXoj"),  # Greek
    **str.maketrans("օ‐‑‒–−‘’ʼ′", "o-----''''"),
}


def is_invisible(character: str) -> bool:
    """Whether a character shows nothing. Blanks do not count."""
    category = unicodedata.category(character)
    return category in _INVISIBLE or character in _WITHOUT_INK or character in _VARIATIONS


def has_ink(text: str) -> bool:
    """Whether a text shows anything."""
    return any(not is_invisible(each) and unicodedata.category(each)[0] in "LNPS" for each in text)


def appearance(name: str) -> str:
    """What the eye sees of a name: two names that look the same have one appearance.

    Invisible characters are left out, runs of blanks are one blank, and letters of other scripts that look like a Latin
    one are that. Case, accents and hyphens stay.
    """
    visible = (each for each in unicodedata.normalize("NFKD", name) if not is_invisible(each))
    return unicodedata.normalize("NFKC", " ".join("".join(visible).translate(_TWINS).split()))


def look_alike(names: Iterable[str]) -> list[list[str]]:
    """The sets of two or more different names that look the same, sorted."""
    sets: dict[str, list[str]] = {}
    for name in sorted({*names}):
        sets.setdefault(appearance(name), []).append(name)
    return [alike for alike in sets.values() if len(alike) > 1]


def shown(name: str) -> str:
    """A name for a sentence: as it is, in quotes if it has blanks, or with escapes if it would show as another one."""
    if any(is_invisible(each) for each in name) or name != name.strip() or "  " in name or not name:
        return ascii(name)
    return f"'{name}'" if any(each.isspace() for each in name) else name


def _printable(text: str) -> str:
    """Texts are shown in terminals, logs and pages, where a control character could pass for something else."""
    for character in text:
        if unicodedata.category(character) in _CONTROLS or character in _DIRECTIONS:
            raise ValueError(f"it has the control character {character!a}: remove it")
    if not has_ink(text):
        raise ValueError(f"it shows nothing ({text!a}): give a text that can be seen")
    return text


def _printable_lines(text: str) -> str:
    _printable(text.replace("\n", " "))
    return text


def _tellable(name: str) -> str:
    """A name that people type and compare has nothing that they cannot see."""
    if name != name.strip():
        raise ValueError(f"it has a blank at its beginning or end ({name!a}): remove it")
    if any(first.isspace() and second.isspace() for first, second in pairwise(name)):
        raise ValueError(f"it has two blanks in a row ({name!a}): leave one")
    for index, character in enumerate(name):
        if is_invisible(character) and not _belongs(name, index):
            called = unicodedata.name(character, "without a name").lower()
            raise ValueError(f"it has the invisible character {character!a} ({called}): remove it")
    return name


def _belongs(name: str, index: int) -> bool:
    """Whether a joiner or a variation selector stands where scripts and emoji need it: beside what is not ASCII."""
    before, after = name[index - 1 : index], name[index + 1 : index + 2]
    if name[index] in _VARIATIONS:
        return bool(before) and not before.isascii() and not before.isspace()
    return name[index] in _JOINERS and all(bool(each) and not each.isascii() for each in (before, after))


Printable = AfterValidator(_printable)
Text = Annotated[str, StringConstraints(min_length=1), Printable]
Prose = Annotated[str, StringConstraints(min_length=1), AfterValidator(_printable_lines)]  # may have several lines
ClassName = Annotated[Text, AfterValidator(_tellable)]
