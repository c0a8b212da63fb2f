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
    return yaml.load(text, _PlainLoader)  # noqa: S506  # a SafeLoader
