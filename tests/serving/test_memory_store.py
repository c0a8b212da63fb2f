"""The store: what is kept, for how long, and in how many bytes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.errors import UnknownPrediction
from app.models.feature_maps import FeatureMaps
from app.pictures.prepare import Frame
from app.predicting.prediction import Prediction, Upload
from app.serving.stores.memory import MemoryStore
from app.telemetry.metrics import Metrics

TTL_S, ENOUGH_BYTES = 10.0, 1_000_000


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def prediction(preview_bytes: int = 100) -> Prediction:
    """A prediction whose size is that of its preview and a little more."""
    maps = FeatureMaps(cnn=np.zeros((2, 1, 1), np.float16), swin=np.zeros((2, 1, 1), np.float16))
    return Prediction("0" * 64, np.zeros(2, np.float32), maps, uploaded(preview_bytes))


def uploaded(preview_bytes: int, side_px: int = 1) -> Upload:
    image = np.zeros((side_px, side_px, 3), np.uint8)
    return Upload(1, 1, "PNG", (), image, bytes(preview_bytes), Frame(0.0, 0.0, 1.0, 1.0, 1, 1))


OWNER = "hospital"


def put(store: MemoryStore, kept: Prediction) -> str:
    """Keep it and return its id."""
    return asyncio.run(store.put(kept, OWNER)).prediction_id


def is_kept(store: MemoryStore, prediction_id: str) -> bool:
    """Whether the id is known. Asking counts as a use."""
    try:
        asyncio.run(store.get(prediction_id, OWNER))
    except UnknownPrediction:
        return False
    return True


def test_what_was_put_is_what_is_got() -> None:
    store, kept = MemoryStore(TTL_S, ENOUGH_BYTES, Metrics()), [prediction(), prediction()]
    ids = [put(store, one) for one in kept]
    assert all(asyncio.run(store.get(name, OWNER)) is one for name, one in zip(ids, kept, strict=True))


def test_a_prediction_lives_for_its_time_however_often_it_is_used() -> None:
    clock = Clock()
    store = MemoryStore(TTL_S, ENOUGH_BYTES, Metrics(), clock)
    first = put(store, prediction())
    clock.now_s += TTL_S / 2
    second = put(store, prediction())
    clock.now_s += TTL_S / 2 - 1e-3
    assert is_kept(store, first)
    clock.now_s += 1e-3
    assert [is_kept(store, first), is_kept(store, second)] == [False, True]
    assert store.used_bytes == prediction().nbytes
    clock.now_s += TTL_S / 2
    assert not is_kept(store, second)
    assert (store.used_bytes, len(store)) == (0, 0)


def test_the_receipt_says_when_it_expires() -> None:
    receipt = asyncio.run(MemoryStore(TTL_S, ENOUGH_BYTES, Metrics()).put(prediction(), OWNER))
    assert abs(receipt.expires_at - datetime.now(UTC) - timedelta(seconds=TTL_S)) < timedelta(seconds=5)


def test_the_least_used_make_room() -> None:
    store = MemoryStore(TTL_S, 3 * prediction().nbytes, Metrics())
    first, second, third = (put(store, prediction()) for _ in range(3))
    assert is_kept(store, first)
    fourth = put(store, prediction())
    assert [is_kept(store, name) for name in (first, second, third, fourth)] == [True, False, True, True]


def test_who_has_most_makes_room() -> None:
    size = prediction().nbytes
    store = MemoryStore(TTL_S, 4 * size, Metrics())
    first = put(store, prediction())
    others = [asyncio.run(store.put(prediction(), "greedy")).prediction_id for _ in range(20)]
    assert is_kept(store, first) and len(store) == 4
    second = put(store, prediction())
    assert is_kept(store, first) and is_kept(store, second) and len(store) == 4
    asyncio.run(store.get(others[-1], "greedy"))
    with pytest.raises(UnknownPrediction):
        asyncio.run(store.get(others[-3], "greedy"))


def test_several_small_ones_make_room_for_a_large_one() -> None:
    store = MemoryStore(TTL_S, 4 * prediction().nbytes, Metrics())
    small = [put(store, prediction()) for _ in range(4)]
    large = put(store, prediction(100 + prediction().nbytes))
    assert [is_kept(store, name) for name in (*small, large)] == [False, False, True, True, True]


def test_what_is_larger_than_the_budget_is_kept_as_the_only_one_until_the_next() -> None:
    store = MemoryStore(TTL_S, 2 * prediction().nbytes, Metrics())
    before, large = put(store, prediction()), put(store, prediction(10_000))
    assert [is_kept(store, before), is_kept(store, large), len(store)] == [False, True, 1]
    after = put(store, prediction())
    assert [is_kept(store, large), is_kept(store, after)] == [False, True]
    assert store.used_bytes == prediction().nbytes


@pytest.mark.parametrize("preview_bytes", [70_000, 200_000])
def test_a_large_one_of_somebody_who_has_no_other_is_kept_too(preview_bytes: int) -> None:
    """Its owner has most of all then, and still can use its id."""
    store = MemoryStore(TTL_S, 100_000, Metrics())
    small = [put(store, prediction(10_000)) for _ in range(4)]
    large = asyncio.run(store.put(prediction(preview_bytes), "somebody")).prediction_id
    assert asyncio.run(store.get(large, "somebody"))
    assert sum(is_kept(store, name) for name in small) == (2 if preview_bytes < 100_000 else 0)


def test_a_forgotten_prediction_is_unknown_and_takes_nothing() -> None:
    store = MemoryStore(TTL_S, ENOUGH_BYTES, Metrics())
    name, other = put(store, prediction(500)), put(store, prediction())
    asyncio.run(store.forget(name, OWNER))
    assert [is_kept(store, name), is_kept(store, other)] == [False, True]
    assert store.used_bytes == prediction().nbytes
    with pytest.raises(UnknownPrediction, match="/predict"):
        asyncio.run(store.forget(name, OWNER))


def test_ids_are_128_random_bits() -> None:
    """Each bit is as often 1 as 0, and no two ids share more bits than chance gives."""
    store = MemoryStore(TTL_S, 1000 * prediction().nbytes, Metrics())

    async def fill() -> list[str]:
        return [(await store.put(prediction(), OWNER)).prediction_id for _ in range(1000)]

    ids = asyncio.run(fill())
    assert len(set(ids)) == 1000
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    bits = np.array([[int(bit) for mark in name for bit in f"{alphabet.index(mark):06b}"] for name in ids])[:, :128]
    assert bits.shape == (1000, 128)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.1  # 6 standard deviations of a fair coin
    alike = np.corrcoef(2.0 * bits - 1)
    assert np.abs(alike - np.eye(1000)).max() < 0.6


class AnySequence(RuleBasedStateMachine):
    """Whatever is put, got, forgotten or left to expire: the books are right and the bound holds."""

    known = Bundle("known")
    budget_bytes = 4000

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(TTL_S, self.budget_bytes, Metrics(), self.clock)
        self.alive: dict[str, tuple[float, Prediction]] = {}  # least recently used first

    def expire(self) -> None:
        self.alive = {name: kept for name, kept in self.alive.items() if kept[0] > self.clock.now_s}

    @rule(target=known, preview_bytes=st.sampled_from([*range(0, 300, 10), 10_000]))
    def put(self, preview_bytes: int) -> str:
        self.expire()
        kept = prediction(preview_bytes)
        name = put(self.store, kept)
        self.alive[name] = (self.clock.now_s + TTL_S, kept)
        while sum(one.nbytes for _, one in self.alive.values()) > self.budget_bytes and len(self.alive) > 1:
            del self.alive[next(iter(self.alive))]
        return name

    @rule(name=known)
    def get(self, name: str) -> None:
        self.expire()
        assert is_kept(self.store, name) is (name in self.alive)
        if name in self.alive:
            self.alive[name] = self.alive.pop(name)

    @rule(name=consumes(known))
    def forget(self, name: str) -> None:
        self.expire()
        if self.alive.pop(name, None):
            asyncio.run(self.store.forget(name, OWNER))
        else:
            with pytest.raises(UnknownPrediction):
                asyncio.run(self.store.forget(name, OWNER))

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.expire()
        is_kept(self.store, "any id")  # the store looks at the clock when it is used

    @invariant()
    def books_are_right(self) -> None:
        assert len(self.store) == len(self.alive)
        assert self.store.used_bytes == sum(one.nbytes for _, one in self.alive.values())
        assert self.store.used_bytes <= self.budget_bytes or len(self.store) == 1


TestAnySequence = settings(max_examples=40, stateful_step_count=30, deadline=None)(AnySequence).TestCase


@settings(max_examples=25, deadline=None)
@given(channels=st.integers(1, 400), preview_bytes=st.integers(0, 100_000))
def test_a_prediction_counts_the_bytes_that_it_holds(channels: int, preview_bytes: int) -> None:
    maps = FeatureMaps(cnn=np.zeros((channels, 7, 7), np.float16))
    one = Prediction("0" * 64, np.zeros(5, np.float32), maps, uploaded(preview_bytes, side_px=32))
    assert 0 <= one.nbytes - (channels * 49 * 2 + preview_bytes + 32 * 32 * 3 + 20) <= 2000
