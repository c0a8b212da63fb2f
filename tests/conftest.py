"""Fixtures shared by all tests. Array shapes are checked at run time: see the import hook."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests.support.artifacts import build_once

# Models this small gain nothing from threads, which on a busy machine mostly wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
install_import_hook(["app", "training"], "beartype.beartype")
# How fast the machine is at the moment is no law.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from tests.support.engine_cases import Case

ROOT = Path(__file__).parents[1]


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means. One worker would only cost its start, so then all runs in this process."""
    from tests.support.workers import worker_processes  # behind the hook

    count = worker_processes()
    return count if count > 1 else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Tests go to the worker processes group by group."""
    from tests.support.workers import ByGroup  # behind the hook

    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test with its kind. Among several processes the browser's go first, then those of services."""
    from tests.support.workers import KINDS, kind_of  # behind the hook

    for item in items:
        item.add_marker(kind_of(item.path.relative_to(ROOT / "tests")))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [item.get_closest_marker(kind) is None for kind in KINDS])


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that sets up the log, for a process of its own, does not do so for the tests that follow."""
    root, ours = logging.getLogger(), logging.getLogger("fusionlens")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


@pytest.fixture(scope="session", autouse=True)
def compiled_graphs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Services and commands keep compiled graphs for the next one, as those of a deployment do, for this run alone."""
    base = tmp_path_factory.getbasetemp()
    is_one_of_several = "PYTEST_XDIST_WORKER" in os.environ  # then its folder lies in the run's
    os.environ["FUSIONLENS_CACHE"] = str((base.parent if is_one_of_several else base) / "compiled-graphs")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures that are not part of the project; tests that want them are skipped where they are absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("SKIPPED LOUDLY: no ../shared/data beside the project, so no real pictures to test with")
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny cross-attention bundle with the classes benign and malignant. Not to be changed: copy it.

    It has graphs, so that it is served as a bundle usually is.
    """
    return build_once("tests.support.bundles:write_compiled_bundle", tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """`case_of(name)`: one of `CASES`, made once."""
    from tests.support.engine_cases import make_case  # behind the hook, and no torch for tests without

    return cache(lambda name: make_case(name, tmp_path_factory.mktemp("cases") / name))
