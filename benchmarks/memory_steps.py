"""What the service does when it starts, step by step in this process, with the memory after each: JSON.

python -m benchmarks.memory_steps CACHE prints it, with compiled graphs kept in the folder CACHE.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from app.files import DEMO_BUNDLE


def sizes_kb(pid: int | str = "self") -> dict[str, int]:
    """The sizes of a process's memory by the names that Linux gives them, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(size) for name, size, _ in (line.split() for line in lines)}


def pss_mb(pid: int | str = "self") -> float:
    """The proportional set size of a process, in MB."""
    return sizes_kb(pid)["Pss"] * 1024 / 1e6


def steps(cache: Path) -> Iterator[tuple[str, float]]:
    """Each step of the service with the memory of this process after it, in MB."""
    yield "the interpreter", pss_mb()
    import_module("app.server.http")
    import_module("app.api.application")
    yield "what the service imports, without OpenVINO", pss_mb()
    import numpy as np

    from app.bundles.reader import read_bundle
    from app.engines.compiled import BundleCompiler
    from app.engines.heap import limit_arenas, release_heap
    from app.engines.openvino import PATH_NODES

    yield "OpenVINO", pss_mb()
    limit_arenas(2)
    compiler = BundleCompiler(read_bundle(DEMO_BUNDLE), 2, cache)
    compiler.forget()
    release_heap()
    yield "the bundle, read and forgotten", pss_mb()
    kept = []
    for name, streams, sizes in (
        ("trunk", 1, None),
        ("explainer", 1, None),
        ("classifier", 1, None),
        ("integrated", 1, {"positions": (PATH_NODES,)}),
        ("trunk", 2, None),
        ("tokens", 1, None),
    ):
        graph = compiler(name, streams, sizes)
        if name == "trunk":
            graph.run({"images": np.zeros((1, 224, 224, 3), np.uint8)})
        kept.append(graph)
        release_heap()
        yield f"graph: {name}" + (", for concurrent calls" if streams > 1 else ""), pss_mb()


if __name__ == "__main__":
    print(json.dumps([*steps(Path(sys.argv[1]))]))
