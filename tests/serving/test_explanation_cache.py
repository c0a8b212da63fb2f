"""The cache of explanations: bounded by the memory that it really takes, the least recently used go first."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from app.serving.explanation_cache import CachedAnswer, ExplanationCache

HEADERS = ("content-type", "content-length", "fusionlens-explanation", "etag", "cache-control")


def answer(body_bytes: int, n: int) -> CachedAnswer:
    """An answer with the headers of an explanation, in objects of its own."""
    return bytes(body_bytes), {name.encode().decode(): f"{name} of answer {n}: ".ljust(150, "x") for name in HEADERS}


@pytest.mark.parametrize("body_bytes", [0, 324, 100_000])
def test_what_is_counted_is_what_is_held(body_bytes: int) -> None:
    cache, entries = ExplanationCache(10**9), 500
    gc.collect()
    tracemalloc.start()
    for n in range(entries):
        cache.put(f"prediction {n}", f"etag {n}", answer(body_bytes, n))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held <= cache.used_bytes <= 1.3 * held


def test_the_least_recently_used_answer_makes_room() -> None:
    one = ExplanationCache(10**9)
    one.put("id", "0", answer(1000, 0))
    cache = ExplanationCache(2 * one.used_bytes + 100)
    for n in range(3):
        cache.put("id", str(n), answer(1000, n))
        cache.get("id", "0")
    assert [cache.get("id", str(n)) is not None for n in range(3)] == [True, False, True]
    cache.put("id", "2", answer(1050, 3))
    assert cache.get("id", "2") == answer(1050, 3) and cache.used_bytes == 2 * one.used_bytes + 50
    cache.put("other", "0", answer(10_000, 4))
    assert cache.get("other", "0") is None and cache.get("id", "0") is not None
    cache.forget("id")
    assert cache.used_bytes == 0
