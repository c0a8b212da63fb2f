"""The index of similar cases is made of train, shows what it may, and gains the pictures of a new site."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.bundles.manifest import CASES, Cases, CasesChoice
from app.bundles.reader import Bundle, read_bundle
from app.cases.index import CaseIndex
from app.cases.stored import cases_of
from app.engines.load import load_engine
from app.trust.fitted import trust_of
from tests.support.trusted import Indexed, write_indexed
from training.cli import main
from training.data.samples import Sample, read_samples
from training.export.export import ExportError, compile_bundle, load_card
from training.trust.cases_fit import THUMBNAIL_PX, build_index
from training.trust.command import add_trust
from training.trust.fit import TrustProblem
from training.trust.observed import observe
from training.trust.recalibrate import recalibrate
from training.trust.write import write_with_trust

CARD = "name: x\nversion: '1'\nlicence: none\ndata: drawn\nnotes: []\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    return write_indexed(tmp_path_factory.mktemp("made"))


def index_of(bundle: Bundle) -> CaseIndex:
    index = cases_of(bundle)
    assert index is not None
    return index


def split_of(data: Path, split: str) -> list[Sample]:
    return [sample for sample in read_samples(data) if sample.split == split]


def test_every_training_picture_is_a_case_with_its_label(made: Indexed) -> None:
    index, train = index_of(read_bundle(made.bundle)), split_of(made.data, "train")
    assert Counter(index.classes[label] for label in index.labels) == Counter(sample.label for sample in train)
    assert len(index.names) == len({*index.names}) == len(train)


def test_names_groups_and_thumbnails_are_shown_where_the_card_allows(made: Indexed, tmp_path: Path) -> None:
    bundle, train = read_bundle(made.bundle), split_of(made.data, "train")
    seen = observe(load_engine(bundle, "torch"), bundle.manifest, train)
    index = build_index(seen, train, bundle.manifest.classes, CasesChoice(names=True, groups=True, thumbnails=True))
    section, fitted = bundle.manifest.trust, trust_of(bundle)
    assert section is not None and fitted is not None
    written = index_of(write_with_trust(bundle, tmp_path / "shown", section, fitted, index))
    assert written.group_names is not None and written.thumbnails is not None
    for place, sample in enumerate(train):
        assert sample.path.as_posix().endswith(written.names[place])
        group = written.group_names[written.groups[place]]
        assert group == sample.group or (sample.group is None and sample.path.as_posix().endswith(group))
        with Image.open(io.BytesIO(written.thumbnails[place])) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= THUMBNAIL_PX
    assert all(not name.startswith("/") for name in (*written.names, *written.group_names))


def test_a_picture_without_a_group_has_no_path_where_names_are_not_shown(made: Indexed) -> None:
    bundle = read_bundle(made.bundle)
    alone = [replace(sample, group=None) for sample in split_of(made.data, "train")[:6]]
    seen = observe(load_engine(bundle, "torch"), bundle.manifest, alone)
    index = build_index(seen, alone, bundle.manifest.classes, CasesChoice(groups=True))
    assert index.group_names is not None
    for place, name in enumerate(index.names):
        assert index.group_names[index.groups[place]] == name and "/" not in name


def test_an_index_is_made_only_where_it_is_asked_for_and_then_kept(made: Indexed, tmp_path: Path) -> None:
    plain = made.bundle.parent / "plain"
    assert add_trust(plain, tmp_path / "without", made.data, None, 0.9).bundle.manifest.cases is None
    for copied in (
        add_trust(made.bundle, tmp_path / "again", made.data, None, 0.9).bundle,
        compile_bundle(made.bundle, tmp_path / "compiled", []),
    ):
        assert copied.manifest.cases == read_bundle(made.bundle).manifest.cases
        assert (copied.path / CASES).read_bytes() == (made.bundle / CASES).read_bytes()


def test_without_a_split_train_there_is_nothing_to_index(made: Indexed, tmp_path: Path) -> None:
    for sample in split_of(made.data, "val"):
        (tmp_path / "data" / sample.label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / sample.label / sample.path.name).write_bytes(sample.path.read_bytes())
    with pytest.raises(TrustProblem, match="made of train"):
        add_trust(made.bundle.parent / "plain", tmp_path / "out", tmp_path / "data", None, 0.9, True)


def test_a_sites_pictures_join_the_cases_and_say_so(made: Indexed, tmp_path: Path) -> None:
    val, before = split_of(made.data, "val"), index_of(read_bundle(made.bundle))
    moved = recalibrate(made.bundle, tmp_path / "moved", made.data, "val").bundle
    after, count = index_of(moved), len(before.names)
    assert moved.manifest.cases == Cases(pictures=count + len(val))
    assert not after.is_local[:count].any() and after.is_local[count:].all()
    np.testing.assert_array_equal(after.vectors[:count], before.vectors)
    assert not {*after.groups[:count].tolist()} & {*after.groups[count:].tolist()}
    seen = observe(load_engine(moved, "torch"), moved.manifest, val[:1])
    (nearest,) = after.nearest({branch: each[0] for branch, each in seen.features.items()}, 1)
    assert nearest.is_local and nearest.label == val[0].label and nearest.similarity == pytest.approx(1, abs=0.01)


def test_a_picture_that_the_index_has_is_there_once_and_as_the_sites(made: Indexed, tmp_path: Path) -> None:
    count, val = len(index_of(read_bundle(made.bundle)).names), split_of(made.data, "val")
    first = recalibrate(made.bundle, tmp_path / "first", made.data, "val").bundle
    again = recalibrate(first.path, tmp_path / "again", made.data, "val").bundle
    assert sorted(index_of(again).names) == sorted(index_of(first).names)
    assert again.manifest.cases == Cases(pictures=count + len(val))
    for sample in split_of(made.data, "train"):
        (tmp_path / "site" / sample.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, tmp_path / "site" / sample.label)
    of_train = index_of(recalibrate(made.bundle, tmp_path / "train", tmp_path / "site", None).bundle)
    assert sorted(of_train.names) == sorted(index_of(read_bundle(made.bundle)).names) and of_train.is_local.all()


def test_the_command_makes_an_index(made: Indexed, tmp_path: Path) -> None:
    plain, out = str(made.bundle.parent / "plain"), tmp_path / "out"
    assert main(["trust", plain, str(made.data), str(out), "--inside", "0.9", "--cases"]) == 0
    assert read_bundle(out).manifest.cases == read_bundle(made.bundle).manifest.cases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CasesChoice()),
        ("cases: null", None),
        ("cases: {thumbnails: true}", CasesChoice(thumbnails=True)),
        ("cases: {names: true, groups: true}", CasesChoice(names=True, groups=True)),
    ],
)
def test_the_card_says_what_the_index_may_show(tmp_path: Path, text: str, expected: CasesChoice | None) -> None:
    (tmp_path / "card.yaml").write_text(CARD + text)
    assert load_card(tmp_path / "card.yaml").cases == expected


@pytest.mark.parametrize("text", ["cases: true", "cases: {thumbnails: maybe}", "cases: {pictures: 3}"])
def test_a_card_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.yaml").write_text(CARD + text)
    with pytest.raises(ExportError, match="cases"):
        load_card(tmp_path / "card.yaml")
