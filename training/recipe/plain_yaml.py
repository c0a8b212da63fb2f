"""Reading of plain YAML, in which every value is what it looks like.

There are no aliases: a few lines of aliases of aliases can stand for any number of values. Truth values and numbers are
those of YAML 1.2's core schema. In YAML 1.1, which PyYAML reads, `010` is 8, `1:30` is 90, and `off` is a truth value.
A key that is given twice is an error.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.get_event()  # type: ignore[no-untyped-call]
            reason = "aliases (*name) are not read: write the value itself"
            raise yaml.composer.ComposerError(None, None, reason, alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_CORE = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _CORE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _CORE.items():
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), list(_first))


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML document. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506  # a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # What PyYAML raises for a value that does not fit its tag: the date 2024-13-45, a number of 5,000 digits.
        raise yaml.YAMLError(f"it has a value that cannot be read: {error}") from error
