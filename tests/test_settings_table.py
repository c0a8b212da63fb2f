"""The table of settings in docs/reference/settings.md is the code's."""

from __future__ import annotations

from scripts.settings_table import PAGE, with_settings_table


def test_the_committed_table_is_the_codes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_settings_table(page), "settings have changed: run `make openapi` and commit"
    assert page.count("| `KEYS` |") == page.count("| `REDIS_URL` |") == 1
