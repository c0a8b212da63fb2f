"""The index of similar cases: the search is exact, and an index that cannot be right is refused by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundles.manifest import CASES, CasesChoice
from app.bundles.reader import Bundle, read_bundle
from app.cases.index import MOST_DIMENSIONS, CaseIndex, Projection, vectors_of
from app.cases.stored import cases_of
from app.errors import BundleError
from tests.support.trusted import write_indexed
from training.trust.novelty_fit import principal_components


def index_of(count: int, seed: int, groups: int) -> tuple[CaseIndex, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    features = {"cnn": rng.normal(size=(count, 12)), "swin": rng.normal(size=(count, 6))}
    projections = {branch: Projection(*principal_components(each, 5)) for branch, each in features.items()}
    bare = CaseIndex(
        CasesChoice(),
        ("a", "b"),
        projections,  # type: ignore[arg-type]
        np.zeros((count, 10), np.float16),
        rng.integers(0, 2, count),
        rng.integers(0, groups, count),
        np.zeros(count, bool),
        tuple(map(str, range(count))),
    )
    vectors = vectors_of(projections, features).astype(np.float16)  # type: ignore[arg-type]
    return replace(bare, vectors=vectors), features


@given(count=st.integers(1, 60), seed=st.integers(0, 1000), groups=st.integers(1, 60), wanted=st.integers(1, 100))
def test_the_nearest_are_those_of_a_full_sort_one_of_each_group(
    count: int, seed: int, groups: int, wanted: int
) -> None:
    index, features = index_of(count, seed, groups)
    place = seed % count
    found = index.nearest({branch: each[place] for branch, each in features.items()}, wanted)  # type: ignore[misc]
    vector = vectors_of(index.projections, {branch: each[[place]] for branch, each in features.items()})[0]  # type: ignore[misc]
    expected: list[str] = []
    met: set[int] = set()
    similarities = index.vectors.astype(np.float32) @ vector
    for candidate in np.argsort(-similarities, kind="stable").tolist():
        if index.groups[candidate] not in met and len(expected) < wanted:
            expected.append(str(candidate))
            met.add(index.groups[candidate])
    assert [case.name for case in found] == expected
    similar = [case.similarity for case in found]
    assert similar == sorted(similar, reverse=True) and all(-1.001 <= each <= 1.001 for each in similar)


@given(count=st.integers(2, 40), seed=st.integers(0, 1000))
def test_a_case_is_most_similar_to_itself(count: int, seed: int) -> None:
    index, features = index_of(count, seed, 10**6)
    for place in range(count):
        (case,) = index.nearest({branch: each[place] for branch, each in features.items()}, 1)  # type: ignore[misc]
        assert case.similarity == pytest.approx(1, abs=2e-3)
        own = index.vectors[place].astype(np.float32)
        assert float(own @ index.vectors[int(case.name)].astype(np.float32)) == pytest.approx(1, abs=4e-3)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(write_indexed(tmp_path_factory.mktemp("indexed")).bundle)


def test_what_is_written_is_read(indexed: Bundle) -> None:
    index = cases_of(indexed)
    assert index is not None and indexed.manifest.cases is not None
    assert len(index.vectors) == len(index.names) == indexed.manifest.cases.pictures == 90
    assert index.vectors.shape[1] <= MOST_DIMENSIONS
    assert index.group_names is None and index.thumbnails is None and not index.is_local.any()
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in index.names)


def test_one_tampered_value_is_refused_by_name(indexed: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(indexed.path, tmp_path / "bundle")
    content = bytearray((folder / CASES).read_bytes())
    content[-1] ^= 1
    (folder / CASES).write_bytes(content)
    with pytest.raises(BundleError, match=CASES):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vectors", np.ones((90, 4), np.float16)),
        ("vectors", np.zeros((90, 10), np.float32)),
        ("vectors", np.zeros((0, 10), np.float16)),
        ("vectors", np.zeros(90, np.float16)),
        ("labels", np.full(90, 2, np.int32)),
        ("labels", np.full(90, -1, np.int32)),
        ("labels", np.zeros(89, np.int32)),
        ("labels", np.zeros((90, 1), np.int32)),
        ("groups", np.zeros((90, 2), np.int32)),
        ("is_local", np.zeros((90, 2), np.uint8)),
        ("groups", np.full(90, -1, np.int32)),
        ("groups", np.zeros((90, 2), np.int64)),
        ("is_local", np.zeros(1, np.uint8)),
        ("names", np.zeros(3, np.uint8)),
        ("names.ends", np.arange(90, dtype=np.int64)[::-1].copy()),
        ("names.ends", np.zeros(0, np.int64)),
        ("cnn.mean", np.zeros(3, np.float32)),
        ("swin.basis", np.zeros((3, 2), np.float16)),
        ("thumbnails", np.zeros(3, np.uint8)),
        ("unknown", np.zeros(1)),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(indexed: Bundle, name: str, values: np.ndarray) -> None:
    with pytest.raises(BundleError, match=f"^{CASES}: is not a readable index of cases"):
        cases_of(replace(indexed, cases={**indexed.cases, name: values}))


@pytest.mark.parametrize(
    ("name", "factor"), [("cnn.mean", 1e30), ("cnn.basis", 3), ("swin.basis", 0), ("vectors", 0.5), ("vectors", 2)]
)
def test_numbers_of_another_size_than_any_index_has_are_refused(indexed: Bundle, name: str, factor: float) -> None:
    values = indexed.cases[name]
    changed = {**indexed.cases, name: (values * np.float64(factor)).astype(values.dtype)}
    with pytest.raises(BundleError, match=f"^{CASES}: is not a readable index of cases"):
        cases_of(replace(indexed, cases=changed))


def test_an_index_that_the_manifest_tells_of_is_there(indexed: Bundle) -> None:
    with pytest.raises(BundleError, match=f"^{CASES}: "):
        cases_of(replace(indexed, cases={}))


def test_a_tensor_that_is_missing_is_named(indexed: Bundle) -> None:
    for name in indexed.cases:
        rest = {other: values for other, values in indexed.cases.items() if other != name}
        with pytest.raises(BundleError, match=f"^{CASES}: .*{name}"):
            cases_of(replace(indexed, cases=rest))
