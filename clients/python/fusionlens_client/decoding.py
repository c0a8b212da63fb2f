"""Turns JSON into the dataclasses of `answers`, by the types of their fields.

What an answer has and a dataclass lacks is ignored, since answers gain fields from version to version. A field that may
be None may also be absent.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fusionlens_client.errors import UnexpectedAnswer

T = TypeVar("T")
_SCALARS: dict[Any, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


@dataclass(frozen=True)
class Wire:
    """For the type of a field, as in `Annotated[…, Wire(…)]`: its name in JSON, and what makes the value from JSON."""

    name: str | None = None
    decode: Callable[[Any], Any] | None = None


def wire_names(kind: type) -> dict[str, str]:
    """The names of a dataclass's fields, each with its name in JSON."""
    return {name: wire.name or name for name, (_, wire) in _hints(kind).items()}


def decode(kind: type[T], content: Any) -> T:
    """An object of this dataclass. Raises UnexpectedAnswer if the JSON is not that of one."""
    return kind(**fields_of(kind, content))


def fields_of(kind: type, content: Any) -> dict[str, Any]:
    """The values of this dataclass's fields, by name. Raises UnexpectedAnswer if the JSON does not have them."""
    if not isinstance(content, dict):
        raise UnexpectedAnswer(f"The answer has {_shown(content)} in place of an object: is this a FusionLens service?")
    return {name: _value(content, wire.name or name, kind, wire) for name, (kind, wire) in _hints(kind).items()}


@cache
def _hints(kind: type) -> dict[str, tuple[Any, Wire]]:
    """The type and the Wire of each field."""
    hints = get_type_hints(kind, include_extras=True)
    return {one.name: _split(hints[one.name]) for one in fields(kind)}


def _split(hint: Any) -> tuple[Any, Wire]:
    if get_origin(hint) is Annotated:
        kind, wire = get_args(hint)
        return kind, wire
    return hint, Wire()


def _value(content: dict[str, Any], name: str, kind: Any, wire: Wire) -> Any:
    if content.get(name) is None and type(None) in get_args(kind):
        return None
    if name not in content:
        raise UnexpectedAnswer(f"The answer has no {name!r}: this client does not fit the version of the service.")
    try:
        return (wire.decode or _decoder(kind))(content[name])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(
            f"The answer has {_shown(content[name])} as {name!r}: this client does not fit the version of the service."
        ) from error


def _shown(value: Any) -> str:
    """The beginning of a value that the service may have chosen to be long, or deep."""
    return f"{reprlib.repr(value):.60}"


def _decoder(kind: Any) -> Callable[[Any], Any]:
    """What makes a value of this type from JSON. It raises TypeError and ValueError for other JSON."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (part for part in parts if part is not type(None))  # None itself is read by `_value`
        return _decoder(kind)
    if origin is tuple:
        of_one = _decoder(parts[0])
        return lambda value: tuple(of_one(one) for one in _checked(value, list))
    if origin is dict:
        of_value = _decoder(parts[1])
        return lambda value: {name: of_value(one) for name, one in _checked(value, dict).items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return lambda value: decode(kind, value)
    if kind is datetime:
        return lambda value: datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 reads no Z
    if kind is Any:
        return lambda value: value
    return lambda value: _checked(value, *_SCALARS[kind])


def _checked(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{type(value).__name__} is not the type of this field")
    return value
