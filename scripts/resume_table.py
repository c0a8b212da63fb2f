"""Write the table of what may change on --resume into docs/reference/recipe.md: python -m scripts.resume_table."""

from __future__ import annotations

from pathlib import Path

from training.recipe.resuming import resume_table

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "recipe.md"
BEGIN, END = "<!-- resuming: `make openapi` writes this table -->\n", "<!-- end of resuming -->"


def with_resume_table(page: str) -> str:
    """The page with the rules as they are."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + resume_table() + END + after


if __name__ == "__main__":
    PAGE.write_text(with_resume_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
