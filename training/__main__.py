"""The command fusionlens-train, also python -m training: where training is not installed, what to install."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None, program: str = "fusionlens-train") -> int:
    """Run one command and return the exit status: 0, or 1 with a sentence on standard error.

    `program` is the command as it was called, for its usage.
    """
    try:
        from training.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("app", "training"):
            raise
        print(f"fusionlens-train: {error}. Training needs pip install 'fusionlens[train]'.", file=sys.stderr)
        return 1
    return run(arguments, program)


if __name__ == "__main__":
    sys.exit(main(program="python -m training"))
