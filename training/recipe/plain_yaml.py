"""Reading of YAML without aliases: a few lines of aliases of aliases can stand for any number of values."""

from __future__ import annotations

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.get_event()  # type: ignore[no-untyped-call]
            reason = "aliases (*name) are not read: write the value itself"
            raise yaml.composer.ComposerError(None, None, reason, alias.start_mark)
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML document. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506  # a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # What PyYAML raises for a value that does not fit its tag: the date 2024-13-45, a number of 5,000 digits.
        raise yaml.YAMLError(f"it has a value that cannot be read: {error}") from error
