"""Write the pages of measurements again from their JSON, without measuring: python -m scripts.measured_pages.

For a change of words or layout in the programs that write these pages. docs/measured/benchmarks-page.md has no JSON and
is not among them. The page of GPUs is, once it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks import aids, batch, fit_speed, memory, methods, novelty, page, scaling, unfreezing
from benchmarks.gpu import page as gpu_page
from reliability import results
from scripts.ablation_page import ablation_page

DOCS = Path(__file__).parents[1] / "docs"
MEASURED = DOCS / "measured"


def measured_pages() -> Mapping[Path, str]:
    """Every page, by its file, as the JSON beside it gives it."""
    gpu = MEASURED / "benchmarks-gpu.md"
    of_gpus = {gpu: gpu_page.read_page(MEASURED)} if gpu.is_file() else {}
    return of_gpus | {
        DOCS / "scaling.md": scaling.read_page(DOCS),
        MEASURED / "ablation.md": ablation_page(MEASURED),
        MEASURED / "aids.md": aids.read_page(MEASURED),
        MEASURED / "benchmarks.md": page.page(page.read(MEASURED)),
        MEASURED / "benchmarks-batch.md": batch.read_page(MEASURED),
        MEASURED / "benchmarks-memory.md": memory.read_page(MEASURED),
        MEASURED / "benchmarks-methods.md": methods.read_page(MEASURED),
        MEASURED / "benchmarks-training.md": fit_speed.read_page(MEASURED),
        MEASURED / "novelty.md": novelty.read_page(MEASURED),
        MEASURED / "unfreezing.md": unfreezing.read_page(MEASURED),
        MEASURED / "reliability.md": results.read_page(MEASURED),
    }


if __name__ == "__main__":
    for file, text in measured_pages().items():
        file.write_text(text, encoding="utf-8")
