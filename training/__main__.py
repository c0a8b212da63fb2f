"""The command `fusionlens-train`, also `python -m training`. It says what to install if training is not installed."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None, program: str = "fusionlens-train") -> int:
    """Run one command, and return its exit status: 0, or 1 with a sentence on standard error.

    `program` is the name of the command in its usage.
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
