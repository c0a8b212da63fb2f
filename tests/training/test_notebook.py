"""The notebook goes the whole way, and what is stored in it is a real run that anyone may see."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from app.__main__ import main as serve
from tests.conftest import ROOT

NOTEBOOK = ROOT / "training" / "fusion_training_notebook.ipynb"
IMPORTED = {"app", "fusionlens_client", "training", "numpy", "matplotlib"}
CELL_TIMEOUT_S = 900


@pytest.fixture(scope="module")
def stored() -> list[Any]:
    """The code cells as they are in the project."""
    return code_cells(read_notebook())


def read_notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parsed(source: str) -> ast.Module:
    """A cell's Python, without IPython's own lines."""
    return ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))


def shows_something(source: str) -> bool:
    """Whether running this should leave an output: a picture, or a printed text."""
    statements = [node for node in parsed(source).body if not isinstance(node, ast.FunctionDef)]
    nodes = [node for statement in statements for node in ast.walk(statement)]
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    return bool(calls & {"print", "show", "plt.show", "fit"})


def test_every_cell_was_run_in_order_and_left_its_output(stored: list[Any]) -> None:
    assert [cell.execution_count for cell in stored] == list(range(1, len(stored) + 1))
    assert [cell.source for cell in stored if shows_something(cell.source) and not cell.outputs] == []
    assert sum("image/jpeg" in output.get("data", {}) for cell in stored for output in cell.outputs) == 5


def test_no_cell_failed_or_warned(stored: list[Any]) -> None:
    outputs = [output for cell in stored for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


def test_nothing_stored_tells_of_the_machine_and_the_file_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 1_000_000
    notebook = read_notebook()
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for picture in ("image/jpeg", "image/png"):
                output.get("data", {}).pop(picture, None)  # base64 holds any four letters by chance
    assert re.findall(r"(?:/(?:home|root|tmp|work|usr|opt|mnt|Users|var)/|[A-Z]:\\)[^ \"]*", json.dumps(notebook)) == []


def test_it_calls_the_package_and_nothing_else_that_is_no_part_of_it(stored: list[Any]) -> None:
    nodes = [node for cell in stored for node in ast.walk(parsed(cell.source))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - IMPORTED - sys.stdlib_module_names == set()


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_its_bundle_answers_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = read_notebook()
    configuration = code_cells(notebook)[0]
    assert configuration.source.count("OUT = None") == 1
    configuration.source = configuration.source.replace("OUT = None", f"OUT = {str(tmp_path / 'out')!r}")
    before = tree(ROOT)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}  # where Jupyter would run it
    NotebookClient(notebook, kernel_name="python3", resources=place, timeout=CELL_TIMEOUT_S).execute()
    assert tree(ROOT) == before
    assert [cell.source for cell in code_cells(notebook) if shows_something(cell.source) and not cell.outputs] == []
    picture = next((tmp_path / "out" / "drawn" / "val").rglob("*.png"))
    assert serve(["predict", str(picture), "--bundle", str(tmp_path / "out" / "bundle")]) == 0
    assert re.search(r"(benign|malignant) \(", capsys.readouterr().out)


def tree(root: Path) -> set[Path]:
    """What lies in the project and in the notebook's folder."""
    return {path for folder in (root, NOTEBOOK.parent) for path in folder.iterdir() if path.name != "__pycache__"}
