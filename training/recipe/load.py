"""Recipes as files: YAML, changed by `--set`, and validated.

An error names the wrong key and, if there is a similar one, the key that was probably meant.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from training.recipe.config import Recipe, RecipeError
from training.recipe.plain_yaml import parse_yaml


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _recipes().iterdir() if path.name.endswith(".yaml"))


def load_recipe(name_or_path: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, or a shipped recipe by its name, and apply `changes` to it.

    A name with a slash or a suffix is that of a file, and any other that of a shipped recipe. A change is written like
    `stages.1.epochs=20`. Raises RecipeError, which names the wrong key and the most similar valid one.
    """
    path = Path(name_or_path)
    is_file_name = bool(path.suffix) or "/" in name_or_path or os.sep in name_or_path
    if not is_file_name:
        path = Path(str(_recipes() / f"{name_or_path}.yaml"))
    if not path.is_file():
        beside = f"; for the file of this name, write ./{name_or_path}" if Path(name_or_path).is_file() else ""
        raise RecipeError(
            f"no recipe {name_or_path!r}: give a YAML file or one of {', '.join(shipped_recipes())}{beside}"
        )
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path.name} has no keys: a recipe is a mapping, such as `name: mine`")
    if changes:
        # Changes apply to the whole recipe with its defaults, so that keys that are not in the file can be changed.
        content = _validated(content, path.name).model_dump(mode="json")
        for change in changes:
            _apply_change(content, change)
    return _validated(content, path.name)


def _recipes() -> Any:
    return files("training.recipe")


def _validated(content: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        entries = error.errors()
        # If an item of a list is wrong, pydantic also reports the list as too short.
        relevant = [entry for entry in entries if entry["type"] != "too_short" or not entry["input"]]
        sentences = [fault_sentence(entry, Recipe) for entry in relevant]
        raise RecipeError(f"{source}: " + "; ".join(sentences)) from error


def fault_sentence(entry: Any, model: type[BaseModel]) -> str:
    """One of a model's validation errors as a sentence: the key, what is wrong, and the value."""
    steps = [step for step in entry["loc"] if not str(step).startswith("<")]
    key = ".".join(map(str, steps))
    if entry["type"] == "extra_forbidden":
        return f"unknown key {key}{_hint(steps, _models_of(model))}"
    if entry["type"] == "missing":
        return f"{key} is missing"
    reason = entry["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    if entry["type"] == "string_type" and isinstance(entry["input"], bool | int | float):
        reason += ", so put it in quotes"
    return f"{key}: {reason} (it is {entry['input']!r})" if key else reason


def _models_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], type[BaseModel]]:
    """Return a model and all models within it by their paths, of lists without the places in them."""
    models = {path: model}
    for name, field in model.model_fields.items():
        for nested in _models_in(field.annotation):
            models |= _models_of(nested, (*path, field.alias or name))
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _hint(path: list[int | str], models: Mapping[tuple[str, ...], type[BaseModel]]) -> str:
    """Return a hint for an unknown key: the most similar key of the same model, or all of its keys."""
    model = models[tuple(str(step) for step in path[:-1] if not isinstance(step, int))]
    keys = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(path[-1]), keys, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else f": the keys are {', '.join(keys)}"


def _apply_change(content: dict[str, Any], change: str) -> None:
    """Set the key at a path of a recipe in plain form, in place."""
    path, equals, text = change.partition("=")
    *parents, key = path.split(".")
    if not equals:
        raise RecipeError(f"--set {change}: write KEY=VALUE, such as stages.1.epochs=20")
    node: Any = content
    for step in parents:
        node = _child(node, step, change)
    if isinstance(node, list):
        _child(node, key, change)
        node[int(key)] = _value(text, change)
    elif isinstance(node, dict):
        node[key] = _value(text, change)
    else:
        raise RecipeError(f"--set {change}: {'.'.join(parents)} is {node!r} and has no {key}")


def _value(text: str, change: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {change}: the value is not YAML: {error}") from error


def _child(node: Any, step: str, change: str) -> Any:
    if isinstance(node, list):
        if not (step.isascii() and step.isdecimal() and len(step) < 9) or int(step) >= len(node):
            raise RecipeError(f"--set {change}: {step!r} is not one of the {len(node)} places, counted from 0")
        return node[int(step)]
    if not isinstance(node, dict) or step not in node:
        keys = list(node) if isinstance(node, dict) else []
        near = difflib.get_close_matches(step, keys, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(keys) or 'none'}"
        raise RecipeError(f"--set {change}: no key {step}: {hint}")
    return node[step]
