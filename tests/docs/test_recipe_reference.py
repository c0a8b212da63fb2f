"""docs/reference/recipe.md has every key of a recipe with its default, and no other key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from training.recipe.config import Recipe, Stage, StrictModel

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recipe.md"
ROW = re.compile(r"^\| `([a-z_.]+)` \| (?:`([^`]+)`|(required|none)) \|", re.MULTILINE)


def defaults(part: type[StrictModel], start: StrictModel | None = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key below a part of a recipe with its default as the page writes it; `start` has other defaults."""
    for name, field in part.model_fields.items():
        default, key = getattr(start, name) if start is not None else field.default, field.alias or name
        if name == "stages":
            yield from defaults(Stage, None, "stages.")
        elif isinstance(default, StrictModel):
            yield from defaults(type(default), default, f"{prefix}{name}.")
        else:
            yield prefix + key, shown(default)
            for optional in get_args(field.annotation):  # a part that there need not be
                if default is None and isinstance(optional, type) and issubclass(optional, StrictModel):
                    yield from defaults(optional, None, f"{prefix}{key}.")


def shown(default: Any) -> str:
    """A default as YAML has it."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    return default if isinstance(default, str) else json.dumps(default)


def test_the_reference_has_every_key_with_its_default() -> None:
    documented = {key: default or word for key, default, word in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    assert documented == dict(defaults(Recipe))
