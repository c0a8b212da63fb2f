"""The command `fusionlens`, also `python -m app`: serve | predict | batch | check | health | new-key | setup."""

from __future__ import annotations

import sys

from app.server import probe


def main(arguments: list[str] | None = None, program: str = "fusionlens") -> int:
    """Run one command and return its exit status: 0, or 1 after a sentence on standard error.

    `program` is the name of the command that usage messages show.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["health"]:  # containers run this every few seconds, so it imports only the standard library
        return probe.main(words[1:], program)
    from app.cli import main as run

    return run(words, program)


if __name__ == "__main__":
    sys.exit(main(program="python -m app"))
