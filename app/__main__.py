"""The command fusionlens, also python -m app: serve | predict | check | health | new-key | setup."""

from __future__ import annotations

import sys

from app.server import probe


def main(arguments: list[str] | None = None, program: str = "fusionlens") -> int:
    """Run one command and return the exit status: 0, or 1 with a sentence on standard error.

    `program` is the command as it was called, for its usage.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["health"]:  # containers run it every few seconds, so it loads nothing that it does not need
        return probe.main(words[1:], program)
    from app.cli import main as run

    return run(words, program)


if __name__ == "__main__":
    sys.exit(main(program="python -m app"))
