"""Builds what is slow to build once: later tests, worker processes and runs get a copy of the same files.

An artifact is kept in `.test_artifacts/` under a hash of everything that it is made from: the builder and its
arguments, every module of the project that the builder's module imports, directly or not, with the data files beside
them, the installed packages, Python and the kind of machine. So a change of any of these builds it anew. A copy is
compared with the checksums that were taken when it was built, and a damaged artifact is built anew as well.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import platform
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".test_artifacts"
_UNUSED_S = 7 * 24 * 3600.0
# The modules that a build runs were loaded after this one, which conftest imports first.
_LOADED_AT_S = time.time()


def build_once(builder: str, out: Path, *arguments: object) -> Path:
    """Have `out` be the folder that a builder, `module:function`, writes as `function(folder, *arguments)`; return it.

    The builder is named, so that its module, and torch with it, is imported only to build. Arguments are plain values,
    which `repr` tells apart. `out` must not exist yet, and may be changed: it is a copy.
    """
    module, _, function = builder.partition(":")

    def build(folder: Path) -> None:
        getattr(importlib.import_module(module), function)(folder, *arguments)

    sources = sources_of(module)
    if any(source.stat().st_mtime > _LOADED_AT_S for source in sources):
        build(out)  # the running code may be older than these files, so that their hash would say something untrue
        return out
    FOLDER.mkdir(exist_ok=True)
    artifact = FOLDER / f"{function}-{_key(sources, builder, arguments)}"
    with FileLock(artifact.with_suffix(".lock")):
        if not _copy(artifact, out):
            _remove_unused()
            with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
                build(Path(temporary) / "new")
                _keep(Path(temporary) / "new", artifact)
            assert _copy(artifact, out), f"{artifact} changes while it is read"
    return out


def sources_of(module: str) -> tuple[Path, ...]:
    """The project's files that a module is made from: itself, all that it imports, and the data files beside these."""
    modules = _modules_from(module)
    data = {
        file
        for folder in {path.parent for path in modules}
        if folder not in (ROOT, ROOT / "tests")
        for file in folder.iterdir()
        if file.is_file() and file.suffix not in (".py", ".ipynb")
    }
    return tuple(sorted(modules | data))


@cache
def _modules_from(module: str) -> set[Path]:
    found, coming = dict[str, Path](), [module]
    while coming:
        name = coming.pop()
        path = _path_of(name)
        if path is not None and name not in found:
            found[name] = path
            coming += [name.rpartition(".")[0], *_imported_by(path)]
    return set(found.values())


def _path_of(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if module and path.is_file()), None)


def _imported_by(path: Path) -> Iterator[str]:
    """All names that a file imports anywhere in it; `from a import b` may import `a.b`. Nothing here is relative."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _key(sources: tuple[Path, ...], builder: str, arguments: tuple[object, ...]) -> str:
    contents = [(str(path.relative_to(ROOT)), _sha256(path)) for path in sources]
    identity = (builder, arguments, contents, _surroundings())
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


@cache
def _surroundings() -> tuple[object, ...]:
    """Python, the machine, and the name and version of every installed package."""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    packages = sorted(info.name for place in places for info in Path(place).glob("*.dist-info"))
    return (sys.version, platform.machine(), packages)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _keep(new: Path, artifact: Path) -> None:
    """Put a folder in an artifact's place, with its checksums: whole, or not at all."""
    whole = new.with_name("whole")
    whole.mkdir()
    (whole / "checksums.json").write_text(json.dumps(_checksums(new)))
    new.rename(whole / "files")
    shutil.rmtree(artifact, ignore_errors=True)
    whole.rename(artifact)


def _copy(artifact: Path, out: Path) -> bool:
    """Copy an artifact to `out`. False, and nothing is there, if it is absent or not as it was built."""
    try:
        checksums = json.loads((artifact / "checksums.json").read_bytes())
        shutil.copytree(artifact / "files", out)
    except (OSError, ValueError):
        shutil.rmtree(out, ignore_errors=True)
        return False
    if _checksums(out) != checksums:
        shutil.rmtree(out)
        return False
    artifact.touch()
    return True


def _remove_unused() -> None:
    """Artifacts that no run has used for a week: those of code that has changed since."""
    for path in FOLDER.iterdir():
        if path.is_dir() and time.time() - path.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(path, ignore_errors=True)
