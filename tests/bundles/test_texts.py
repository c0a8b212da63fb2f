"""Names that people type and compare: what cannot be seen in them is refused, and what looks the same is one."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.bundles.texts import ClassName, Prose, Text, appearance, has_ink, is_invisible, look_alike, shown

NAME, TEXT, PROSE = TypeAdapter[str](ClassName), TypeAdapter[str](Text), TypeAdapter[str](Prose)
INVISIBLE = [chr(code) for code in range(sys.maxunicode + 1) if is_invisible(chr(code))]
PERSIAN, DOCTOR = "می\u200cخواهم", "👩\u200d⚕\ufe0f"  # with a joiner that their script needs
GOOD = ["cat", "HER2+", "é", "悪性\u3000腫瘍", PERSIAN, DOCTOR, "❤\ufe0f", "Ω", "a b", "-", "naïve café", "100 %"]
TWINS = [
    *(("cat", "\u0441at"), ("cat", "c\u0430t"), ("AB", "\u0391\u0392"), ("5 \u00b5m", "5 \u03bcm"), ("\ufb01n", "fin")),
    *(("\uff43at", "cat"), ("a-b", "a\u2011b"), ("a b", "a\u00a0b"), (PERSIAN, PERSIAN.replace("\u200c", ""))),
    *(("❤\ufe0f", "❤"), ("\u0451", "\u00eb"), ("don't", "don\u2019t"), ("x\u00b2", "x2")),
]
NOTHING = ["", " ", "\u00a0", "\u3000", "\u200b", "\u3164", "\u2800", "\ufe0f", "\u200d\u200d", "\u0301"]
APART = [("cat", "Cat"), ("HER2", "HER2+"), ("e", "é"), ("a b", "ab"), ("a-b", "a\u2014b")]


def accepts(adapter: TypeAdapter[str], text: str) -> bool:
    try:
        return adapter.validate_python(text) == text
    except ValidationError:
        return False


@pytest.mark.parametrize("name", GOOD)
def test_names_of_all_scripts_are_names(name: str) -> None:
    assert accepts(NAME, name) and accepts(TEXT, name) and has_ink(name)


@given(st.sampled_from(INVISIBLE), st.sampled_from(["", "a", "cat", " a"]), st.sampled_from(["", "b", "1"]))
def test_no_name_has_a_character_that_shows_nothing(character: str, before: str, after: str) -> None:
    assert not accepts(NAME, before + character + after)
    assert appearance(before + character + after) == appearance(before + after)
    assert character not in shown(before + character + after)


def test_all_that_unicode_calls_a_control_or_a_format_shows_nothing() -> None:
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp"):
            assert is_invisible(chr(code))


@pytest.mark.parametrize("name", NOTHING)
def test_what_shows_nothing_is_no_text_at_all(name: str) -> None:
    assert not accepts(NAME, name) and not accepts(TEXT, name) and not accepts(PROSE, name)


@pytest.mark.parametrize("name", [" a", "a ", "a  b", "a \u00a0b", "a\u3000\u3000b", "\u2003a"])
def test_blanks_that_nobody_counts_are_in_no_name(name: str) -> None:
    assert not accepts(NAME, name)
    assert shown(name) == ascii(name) or "\\" not in shown(name)


@pytest.mark.parametrize("direction", "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
def test_no_text_turns_the_text_around_it(direction: str) -> None:
    assert not accepts(TEXT, f"a{direction}b") and not accepts(PROSE, f"one\ntwo {direction}three")


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_twins_look_alike(one: str, other: str) -> None:
    assert one != other and appearance(one) == appearance(other)
    assert look_alike(["else", other, one]) == [sorted([one, other])]


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_can_be_told_apart_does_not_look_alike(one: str, other: str) -> None:
    assert look_alike([one, other]) == []


@given(st.text(max_size=8), st.text(max_size=8))
def test_an_appearance_looks_like_its_name_and_is_shown_in_one_line(name: str, other: str) -> None:
    assert appearance(appearance(name)) == appearance(name)
    assert "\n" not in shown(name)
    assume(appearance(name) != appearance(other))
    assert look_alike([name, other]) == []
