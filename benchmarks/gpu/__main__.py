"""What a GPU makes of the torch engine and of training, in ten minutes at most.

python -m benchmarks.gpu writes benchmarks-gpu.md and benchmarks-gpu.json to docs/measured/. With --device cpu it goes
the same way at tiny sizes, to see that it works, and writes elsewhere. Both files are written after every section.
Every section has a process of its own, and a share of the time: a section that fails or takes too long costs itself.

It needs neither the internet, nor OpenVINO, nor an installation: see docs/guides/deploy.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.page import read_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "measured"
FILE = "benchmarks-gpu.json"
MACHINE = "machine"
# Seconds for each, at most. The last one takes what is left.
SECTIONS = {
    MACHINE: 40,
    "engine": 110,
    "explaining": 45,
    "stages": 60,
    "resuming": 110,
    "exporting": 60,
    "fitting": 110,
    "serving": 300,
}
SECONDS = 540.0  # for all of them
SPARE_S = 5.0  # for a section to come to its end by itself
Section = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that the program works")
    parser.add_argument("--tiny", action="store_true", help="next to nothing; always so on a CPU")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section alone; repeatable")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for everything (default {SECONDS:.0f})")
    parser.add_argument("--out", type=Path, help="folder for the report (default docs/measured; otherwise a new one)")
    args = parser.parse_args()
    effort = "tiny" if args.tiny or args.device == "cpu" else "full"
    counts = args.device == "cuda" and effort == "full"
    out = args.out or (DOCS if counts else Path(tempfile.mkdtemp(prefix="benchmarks-gpu-")))
    if not counts and out.resolve() == DOCS:
        parser.error(f"--out: {DOCS.relative_to(ROOT)} is for what a GPU has measured, at full sizes")
    if args.device == "cuda" and (reason := _no_cuda()):
        sys.exit(f"SKIPPED LOUDLY: nothing was measured, since {reason}; --device cpu shows that the program works")
    out.mkdir(parents=True, exist_ok=True)
    names = [MACHINE, *(name for name in SECTIONS if name != MACHINE and name in (args.only or SECTIONS))]
    document: dict[str, Any] = {"device": args.device, "effort": effort, "sections": {}}
    end_s = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory(prefix="benchmarks-gpu-") as folder:
        for name in names:
            document["sections"][name] = _run(name, Path(folder), args.device, effort, end_s)
            if name == MACHINE and args.only:
                _take_over(document, out / FILE)
            _write(document, out)
    print(read_page(out))
    print(f"written to {out}")


def _no_cuda() -> str | None:
    """Why there is no CUDA GPU for this process, or None if there is one."""
    try:
        import torch
    except ModuleNotFoundError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "torch finds no CUDA GPU here"


def _run(name: str, folder: Path, device: str, effort: str, end_s: float) -> Section:
    """A section in a process of its own, which is gone in time with all that it has started."""
    began = time.monotonic()
    end_s = min(end_s, began + SECTIONS[name])
    if end_s - began < 2 * SPARE_S:
        print(f"SKIPPED LOUDLY: {name}: the time for everything is over", flush=True)
        return {"status": "not begun", "figures": {}, "checks": [], "skipped": []}
    print(f"== {name}, {end_s - began:.0f} s at most", flush=True)
    words = [name, str(folder), device, effort, str(end_s - SPARE_S)]
    env = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    said = folder / f"{name}.err"
    with said.open("wb") as errors:
        command = [sys.executable, "-m", "benchmarks.gpu.section", *words]
        process = subprocess.Popen(command, stderr=errors, cwd=ROOT, env=env, start_new_session=True)
        try:
            status = "complete" if process.wait(end_s - time.monotonic()) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "stopped"
        finally:
            _end_group(process)
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if status != "complete":
        print("\n".join([f"{name}: {status}", *lines[-30:]]), flush=True)
    section: Section = {"figures": {}, "checks": [], "skipped": []}
    if (file := folder / f"{name}.json").is_file():
        section = json.loads(file.read_text(encoding="utf-8"))
    why = {"why": _last_sentence(lines)} if status == "failed" else {}
    return section | {"status": status, "seconds": round(time.monotonic() - began, 1)} | why


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what a section has started, such as a training that it did not wait for."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended by itself
    finally:
        process.wait()


def _last_sentence(lines: Iterable[str]) -> str:
    """What an exception said, without the folders of the machine."""
    last = next((line for line in reversed([*lines]) if line and not line.startswith(" ")), "it said nothing")
    return last.replace(str(ROOT), ".").replace(tempfile.gettempdir(), "")[:300]


def _take_over(document: dict[str, Any], file: Path) -> None:
    """Keep the sections of an earlier report from the same machine, and with the same packages."""
    if not file.is_file():
        return
    earlier = json.loads(file.read_text(encoding="utf-8"))
    machines = [dict(one["sections"].get(MACHINE, {}).get("figures", {})) for one in (document, earlier)]
    for machine in machines:
        machine.pop("date", None)
    if machines[0] == machines[1] and earlier["effort"] == document["effort"]:
        document["sections"] = earlier["sections"] | document["sections"]


def _write(document: dict[str, Any], out: Path) -> None:
    (out / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / FILE).with_suffix(".md").write_text(read_page(out), encoding="utf-8")


if __name__ == "__main__":
    main()
