"""Write docs/reference/cli.md from the parsers of both commands: python -m scripts.cli_reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from app.cli import make_parser as app_parser
from training.cli import make_parser as training_parser

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """\
# Command line

<!-- `make openapi` writes this page -->

There are two commands. `fusionlens` serves and predicts. `fusionlens-train` trains and evaluates, and needs the extra
`train`. Both are installed with the package, in `.venv/bin` after `make serve`. `python -m app` and
`python -m training` are the same, but only in a folder that has no `app` or `training` of its own.

A command exits with status 0, or with 1 and a sentence on standard error; `fusionlens batch` tells
[more by its status](../guides/batch.md#exit-status). `fusionlens` also reads every
[setting](settings.md) from its variable. Every command has `--help`.
"""


def cli_reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for parser in (app_parser("fusionlens"), training_parser("fusionlens-train")):
        parts.append(f"## {parser.prog}\n\n{parser.description}\n")
        for name, command, meaning in _commands(parser):
            parts.append(f"### {parser.prog} {name}\n\n{_sentence(meaning)}\n")
            actions = sorted(command._actions, key=lambda action: bool(action.option_strings))
            if rows := [_row(action) for action in actions if action.dest != "help"]:
                parts.append("\n".join(["| argument | meaning |", "| --- | --- |", *rows]) + "\n")
            if command.epilog:
                parts.append(f"```\n{command.epilog.removeprefix('example: ')}\n```\n")
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Every command's name, parser and help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            meanings = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, command, meanings[name]) for name, command in action.choices.items())


def _row(action: argparse.Action) -> str:
    """One argument and its meaning."""
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        shown = f"`{value}`" + (", one or more" if action.nargs == "+" else "")
    else:
        takes_value = "" if action.nargs == 0 else f" {'VALUE' if action.choices else value}"
        shown = ", ".join(f"`{option}{takes_value}`" for option in action.option_strings)
    meaning = [action.help] if action.help else []
    if action.choices:
        meaning.append("one of " + ", ".join(f"`{choice}`" for choice in action.choices))
    if action.required and action.option_strings:
        meaning.append("required")
    return f"| {shown} | {'; '.join(meaning).replace('|', chr(92) + '|')} |"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


if __name__ == "__main__":
    PAGE.write_text(cli_reference(), encoding="utf-8")
