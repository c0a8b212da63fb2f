"""What a recipe may hold: numbers within bounds, and YAML that is read or refused in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import example, given
from hypothesis import strategies as st

from training.recipe import config
from training.recipe.config import RecipeError, StrictModel
from training.recipe.load import load_recipe
from training.recipe.plain_yaml import parse_yaml


def numbers() -> Iterator[tuple[str, set[type]]]:
    """Every number of a recipe with the kinds of its bounds."""
    for model in vars(config).values():
        if isinstance(model, type) and issubclass(model, StrictModel):
            for name, field in model.model_fields.items():
                if field.annotation in (int, float):
                    yield f"{model.__name__}.{name}", {type(bound) for bound in field.metadata}


def test_every_number_has_a_lowest_and_a_highest_value() -> None:
    found = dict(numbers())
    assert len(found) > 25
    assert [name for name, kinds in found.items() if not (kinds & {Ge, Gt} and kinds & {Le, Lt})] == []


@given(st.text(alphabet="-:[]{}!&*?|>'\"%@`#,.~= \n\t0aénul\ud800"[:-1], max_size=30) | st.text(max_size=30))
@example("2024-13-45")
@example("9" * 5000)
@example("[" * 3000)
@example("!!timestamp x")
@example("!!bool x")
@example("!!int x")
@example("? {a: b}\n: c")
@example("=")
def test_any_text_is_values_or_no_yaml(text: str) -> None:
    try:
        parse_yaml(text)
    except yaml.YAMLError as error:
        assert str(error)


@pytest.mark.parametrize("value", ["[", "2024-13-45", "9" * 5000, "*a", "!!bool x"])
@pytest.mark.parametrize("place", ["seed=", "stages.1="])
def test_a_change_that_is_no_yaml_is_told(place: str, value: str) -> None:
    with pytest.raises(RecipeError, match="the value is not YAML"):
        load_recipe("smoke", [place + value])


@pytest.mark.parametrize("step", ["²", "٣", "-1", "9" * 5000, ""])
def test_a_place_that_is_none_is_told(step: str) -> None:
    with pytest.raises(RecipeError, match="is not one of the 2 places"):
        load_recipe("smoke", [f"stages.{step}.epochs=3"])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x00", b"3", b"- a", b"[" * 5000, b"name: 2024-13-45"])
def test_a_file_that_is_no_recipe_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("010", "010"), ("1:30", "1:30"), ("yes", "yes"), ("off", "off"), ("0x1f", "0x1f"), ("1_000", "1_000")),
        *(("12", 12), ("-3", -3), ("0", 0), ("3e-4", 3e-4), ("1.5", 1.5), (".5", 0.5), ("true", True), ("null", None)),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_yaml(f"key: {text}") == {"key": value}
    assert parse_yaml(yaml.safe_dump({"key": value})) == {"key": value}


def test_a_key_that_is_given_twice_is_an_error() -> None:
    with pytest.raises(yaml.YAMLError, match="batch_size is given twice"):
        parse_yaml("batch_size: 8\nseed: 1\nbatch_size: 64")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The path and the value of everything in a recipe that is no list, no mapping and none of timm's options."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if not str(key).endswith("_options"):
                yield from leaves(inner, f"{path}.{key}".removeprefix("."))
    else:
        yield path, value


WRONG = {
    bool: ["0", "1", "'true'", "yes", "[true]"],
    int: ["true", "false", "'3'", "3.0", "3.5", "[3]", "null"],
    float: ["true", "false", "'0.1'", "[0.1]", "null", ".nan", ".inf"],
    str: ["1", "true", "1.5", "[a]", "null"],
    type(None): ["true", "[a]", "1.5"],
}
WHOLE = load_recipe("progressive").model_dump(mode="json")
LEAVES = dict(leaves(WHOLE))


@pytest.mark.parametrize("path", LEAVES)
def test_no_value_is_taken_for_one_of_another_type(path: str) -> None:
    for written in WRONG[type(LEAVES[path])]:
        with pytest.raises(RecipeError, match=rf"{re.escape(path)}\b.*: .*\(it is "):
            load_recipe("progressive", [f"{path}={written}"])


def parts(values: Any, path: str = "") -> Iterator[str]:
    """The paths of the parts of a recipe that have keys of their own."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            if isinstance(value, dict) and not str(key).endswith("_options") and key != "leave_out":
                yield f"{path}{key}"
            yield from parts(value, f"{path}{key}.")


EVERY_PART = ["stages.1.distil={from: cnn}", "balance={label: 0.5}"]
PARTS = list(parts(load_recipe("progressive", EVERY_PART).model_dump(mode="json", by_alias=True)))


@pytest.mark.parametrize("path", PARTS)
def test_an_unknown_key_is_named_in_every_part(path: str) -> None:
    with pytest.raises(RecipeError, match=rf"unknown key {re.escape(path)}\.zzzz: the keys are "):
        load_recipe("progressive", [*EVERY_PART, f"{path}.zzzz=1"])


def test_what_was_written_out_is_read_again_and_a_whole_number_may_stand_for_a_fraction(tmp_path: Path) -> None:
    assert len(LEAVES) > 50
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(WHOLE))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == load_recipe("progressive")
    for path, value in LEAVES.items():
        if isinstance(value, float) and path.endswith(("blur", "erasing", "weight_decay", "mixup_alpha")):
            load_recipe("progressive", [f"{path}=1"])


@pytest.mark.parametrize("stretch", ["[true, 4095]", "['0', 4095]", "[0.0, 4095]", "true", "1", "Found"])
def test_a_stretch_is_two_whole_numbers_or_a_word(stretch: str) -> None:
    assert load_recipe("smoke", ["stretch=[0, 4095]"]).stretch == (0, 4095)
    with pytest.raises(RecipeError, match="stretch: give null, found, or two grey values"):
        load_recipe("smoke", [f"stretch={stretch}"])


@pytest.mark.parametrize("name", ["''", "' '", '"a\\nb"', '"\\u202Ea"'])
@pytest.mark.parametrize("key", ["name", "stages.0.name"])
def test_a_name_can_be_seen_in_one_line(key: str, name: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: "):
        load_recipe("smoke", [f"{key}={name}"])


def test_the_home_folder_is_that_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    changed = load_recipe("smoke", ["start.cnn.pretrained=false", "start.cnn.weights=~/a.pth"])
    assert changed.start.cnn.weights == Path("/home/me/a.pth")
    for wrong, said in (("~no_such_user/a.pth", "home directory"), ("''", "empty")):
        with pytest.raises(RecipeError, match=f"start.cnn.weights: .*{said}"):
            load_recipe("smoke", ["start.cnn.pretrained=false", f"start.cnn.weights={wrong}"])


def test_a_name_with_a_slash_is_a_file_and_a_bare_one_a_shipped_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("./smoke", f"{tmp_path}/smoke", "folder/smoke", "./smoke.yaml", "smoke.yaml"):
        with pytest.raises(RecipeError, match=f"no recipe '{re.escape(name)}'"):
            load_recipe(name)
    for name in ("smoke", "smoke.yaml", "other"):
        (tmp_path / name).write_text(yaml.safe_dump(WHOLE | {"name": "mine"}))
    for name in ("./smoke", f"{tmp_path}/smoke", "smoke.yaml", "./other"):
        assert load_recipe(name).name == "mine"
    assert load_recipe("smoke").name == "smoke"
    with pytest.raises(RecipeError, match=r"write \./other"):
        load_recipe("other")


def test_a_new_head_is_said_of_a_bundle_alone() -> None:
    with pytest.raises(RecipeError, match="start: head: new is for bundle: PATH"):
        load_recipe("smoke", ["start={head: new}"])
