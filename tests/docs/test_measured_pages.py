"""The pages of measurements are what the programs that write them make of the stored figures."""

from __future__ import annotations

from scripts.measured_pages import measured_pages


def test_the_committed_pages_are_made_of_the_committed_figures() -> None:
    for file, text in measured_pages().items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run `python -m scripts.measured_pages`"
