"""Write the table of settings into docs/reference/settings.md: python -m scripts.settings_table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from app.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "settings.md"
BEGIN, END = "<!-- settings: `make openapi` writes this table -->\n", "<!-- end of settings -->"


def with_settings_table(page: str) -> str:
    """The page with the settings as they are."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + settings_table() + END + after


def settings_table() -> str:
    """Every setting with its default and what it means."""
    rows = ["", "| `FUSIONLENS_…` | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default in (None, "") else _shown(field.default)
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join([*rows, "", ""])


def _shown(default: Any) -> str:
    if default == ():
        return "`[]`"
    if isinstance(default, Path):  # one that comes with the project, wherever that lies
        return f"`{default.relative_to(ROOT)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else re.sub(r'000000$', '_000_000', str(default))}`"


if __name__ == "__main__":
    PAGE.write_text(with_settings_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
