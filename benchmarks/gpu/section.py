"""One section, in this process: python -m benchmarks.gpu.section NAME FOLDER DEVICE EFFORT END_S.

`benchmarks.gpu` starts it, and stops it if it takes longer. What it finds is in FOLDER/NAME.json at any moment.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.notes import Notes

OURS = ("app", "benchmarks", "training")


def main(name: str, folder: Path, device: str, effort: str, end_s: float) -> None:
    """Measure a section, unless it needs a package that is not installed.

    Whatever else it raises ends the process, with what was found until then in the file.
    """
    notes = Notes(folder / f"{name}.json", end_s)
    notes.write()
    (folder / name).mkdir()
    try:
        efforts = import_module("benchmarks.gpu.effort").EFFORTS
        import_module(f"benchmarks.gpu.{name}").measure(notes, efforts[effort], device, folder / name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OURS:
            raise
        notes.skip(f"what follows in the section {name}: it needs {package}, which is not installed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
