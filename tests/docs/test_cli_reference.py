"""The reference of the command line is the parsers'."""

from __future__ import annotations

from scripts.cli_reference import PAGE, cli_reference


def test_the_committed_reference_is_the_parsers() -> None:
    page = cli_reference()
    assert PAGE.read_text(encoding="utf-8") == page, "a command has changed: run `make openapi` and commit"
    assert page.count("\n### ") == 20 and "`--host HOST`" in page and "`--resume`" in page
