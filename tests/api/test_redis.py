"""Predictions in Redis: shared by replicas, bounded, authenticated; and what happens while Redis is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
import redis

from app.api.application import create_app
from app.api.keys.redis_limits import RedisLimits
from app.errors import StoreUnavailable
from app.server.provision import add_key
from app.serving.stores.redis import FORMAT, from_bytes, sign, to_bytes, verify
from app.serving.stores.redis_client import SharedRedis, connect
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.support.asking import PNG, assert_problem, links_of, png_bytes, predict
from tests.support.redis_server import PASSWORD, SECRET, RedisServer, redis_server
from tests.support.serving import serving, serving_app
from tests.support.waiting import wait_until

KEY = "fusionlens:prediction:"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that is up throughout."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def replicas(tiny_bundle: Path, shared: RedisServer) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of two replicas."""
    settings = Settings(bundle=tiny_bundle, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as one, serving(settings) as other:
        yield one, other


@pytest.fixture
def entries(shared: RedisServer) -> Iterator[redis.Redis]:
    """Redis itself, as whoever can write to it sees it."""
    with redis.Redis(unix_socket_path=str(shared.socket), password=PASSWORD) as client:
        yield client


def test_any_replica_explains_and_forgets_what_another_predicted(
    replicas: tuple[httpx.Client, httpx.Client], client: httpx.Client
) -> None:
    one, other = replicas
    answer = predict(one, png_bytes())
    assert answer["stored"] is True
    for link in links_of(answer):
        assert other.get(link).content == one.get(link).content
        assert other.get(link).headers["etag"] == one.get(link).headers["etag"]
    in_memory = client.get(predict(client, png_bytes())["links"]["gradcam"])
    assert other.get(answer["links"]["gradcam"]).content == in_memory.content  # the store changes no number
    assert other.delete(f"/predictions/{answer['prediction_id']}").status_code == 204
    for link in links_of(answer):
        assert_problem(one.get(link), 404, "unknown-prediction")
    assert_problem(one.delete(f"/predictions/{answer['prediction_id']}"), 404, "unknown-prediction")


def test_an_entry_is_the_prediction_and_its_owner(tiny_bundle: Path) -> None:
    app = create_app(Settings(bundle=tiny_bundle))
    app.state.models.load()
    predictor = app.state.models.current.predictor
    prediction, _ = predictor.predict(predictor.open(png_bytes()), with_gradient=True)
    for one in (prediction, replace(prediction, gradient=None)):
        again, owner, expires_s = from_bytes(to_bytes(one, "hospital", 12))
        assert (owner, expires_s, again.bundle_sha256) == ("hospital", 12, one.bundle_sha256)
        assert again.upload.frame == one.upload.frame
        assert again.upload.preview_jpeg == one.upload.preview_jpeg and again.upload.notes == one.upload.notes
        for kept, given in zip(arrays(again), arrays(one), strict=True):
            assert kept.dtype == given.dtype and np.array_equal(kept, given)


def arrays(prediction: Any) -> list[np.ndarray]:
    maps = list(prediction.maps.values())
    return [prediction.logits, prediction.upload.image, *maps, *(prediction.gradient or {}).values()]


def test_redis_lets_entries_expire_and_they_are_bounded(
    tiny_bundle: Path, shared: RedisServer, entries: redis.Redis
) -> None:
    settings = Settings(bundle=tiny_bundle, store_ttl_s=120, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as client:
        answer = predict(client, png_bytes())
        key = KEY + answer["prediction_id"]
        assert 0 < entries.pttl(key) <= 120_000
        size = entries.strlen(key)
        entries.pexpire(key, 1)
        wait_until(lambda: not entries.exists(key))
        assert_problem(client.get(answer["links"]["gradcam"]), 404, "unknown-prediction")
    smaller = settings.model_copy(update={"store_max_entry_bytes": size - 1})
    before = entries.dbsize()
    with serving(smaller) as client:
        answer = predict(client, png_bytes())
        assert_not_stored(answer, f"{size:,} bytes")
        assert entries.dbsize() == before


def assert_not_stored(answer: dict[str, Any], reason: str) -> None:
    assert answer["stored"] is False and answer["label"]
    assert answer["prediction_id"] is None and answer["expires_at"] is None
    assert {*answer["links"].values()} == {None}
    assert reason in answer["picture"]["notes"][-1] and "by POST" in answer["picture"]["notes"][-1]


def test_lost_redis_costs_the_store_and_nothing_else_and_comes_back_by_itself(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with redis_server(tmp_path) as server:
        settings = Settings(bundle=tiny_bundle, **server.settings)  # type: ignore[arg-type]
        with serving(settings) as client:
            link = predict(client, png_bytes())["links"]["gradcam"]
            overlay = client.get(link)
            server.stop()
            for _ in range(3):
                assert_not_stored(predict(client, png_bytes()), "the store cannot be reached")
                assert "by POST" in assert_problem(client.get(link), 503, "store-unavailable")
                assert_problem(client.delete("/predictions/any"), 503, "store-unavailable")
                assert client.post("/gradcam", content=png_bytes(), headers=PNG).content == overlay.content
            assert client.get("/health/ready").status_code == 200  # what it is there for goes on
            assert "fusionlens_store_up 0.0" in client.get("/metrics").text
            server.start()
            wait_until(lambda: predict(client, png_bytes())["stored"])
            answer = predict(client, png_bytes())
            assert client.get(answer["links"]["gradcam"]).content == overlay.content
            assert "fusionlens_store_up 1.0" in client.get("/metrics").text
            assert_problem(client.get(link), 404, "unknown-prediction")


def test_without_redis_at_the_start_it_is_not_ready_until_redis_is_there(tiny_bundle: Path, tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        server.stop()
        with serving(Settings(bundle=tiny_bundle, **server.settings)) as client:  # type: ignore[arg-type]
            assert "cannot be reached" in assert_problem(client.get("/health/ready"), 503, "store-unavailable")
            assert client.get("/health/live").status_code == 200
            server.start()
            wait_until(lambda: client.get("/health/ready").status_code == 200)


def test_a_wrong_password_is_not_ready(tiny_bundle: Path, shared: RedisServer) -> None:
    wrong = {"redis_url": shared.url.replace(PASSWORD, "wrong"), "redis_secret": SECRET}
    with serving(Settings(bundle=tiny_bundle, **wrong)) as client:  # type: ignore[arg-type]
        response = client.get("/health/ready")
        assert_problem(response, 503, "store-unavailable")
        assert "wrong" not in response.text


POISONS: dict[str, Callable[[bytes], bytes]] = {
    "another bit": lambda entry: entry[:-9] + bytes([entry[-9] ^ 1]) + entry[-8:],
    "cut off": lambda entry: entry[: len(entry) // 2],
    "longer": lambda entry: entry + b"\0",
    "another format": lambda entry: b"FLP0" + entry[4:],
    "no HMAC": lambda entry: entry[:10],
    "a pickle": lambda entry: b"cos\nsystem\n(S'true'\ntR.",
    "another secret": lambda entry: sign(b"another secret", "x", entry[36:]),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_what_this_service_did_not_write_is_not_decoded(
    poison: Callable[[bytes], bytes], replicas: tuple[httpx.Client, httpx.Client], entries: redis.Redis
) -> None:
    one, other = replicas
    answer = predict(one, png_bytes())
    key = KEY + answer["prediction_id"]
    entries.set(key, poison(cast(bytes, entries.get(key))))
    detail = assert_problem(other.get(answer["links"]["gradcam"]), 503, "store-unavailable")
    assert "cannot be trusted" in detail
    forged = 'fusionlens_store_reads_total{outcome="forged"}'
    assert forged in other.get("/metrics").text


def test_one_prediction_cannot_be_passed_off_as_another(
    replicas: tuple[httpx.Client, httpx.Client], entries: redis.Redis
) -> None:
    client = replicas[0]
    first, second = predict(client, png_bytes()), predict(client, png_bytes(64, 64))
    entries.rename(KEY + first["prediction_id"], KEY + second["prediction_id"])
    assert_problem(client.get(second["links"]["gradcam"]), 503, "store-unavailable")


def test_the_entry_of_another_version_is_gone_not_wrong(
    replicas: tuple[httpx.Client, httpx.Client], entries: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, answer = replicas[0], predict(replicas[0], png_bytes())
    key, name = KEY + answer["prediction_id"], answer["prediction_id"]
    stored_format, payload = verify(SECRET.encode(), name, cast(bytes, entries.get(key)))
    assert stored_format == FORMAT
    monkeypatch.setattr("app.serving.stores.redis.FORMAT", b"FLP9")
    entries.set(key, sign(SECRET.encode(), name, payload))
    monkeypatch.undo()
    assert "Another version" in assert_problem(client.get(answer["links"]["gradcam"]), 410, "model-gone")


TYPES: dict[str, Callable[[redis.Redis, str], Any]] = {
    "a list": lambda entries, key: entries.rpush(key, "x"),
    "a hash": lambda entries, key: entries.hset(key, "x", "y"),
    "a set": lambda entries, key: entries.sadd(key, "x"),
    "a stream": lambda entries, key: entries.xadd(key, {"x": "y"}),
    "a sorted set": lambda entries, key: entries.zadd(key, {"x": 1}),
    "nothing that is one": lambda entries, key: entries.set(key, "nan"),
    "infinity": lambda entries, key: entries.set(key, "inf"),
    "no number": lambda entries, key: entries.set(key, "\0" * 1_000_000),
    "a far future": lambda entries, key: entries.set(key, "99999999999"),
    "a number in another notation": lambda entries, key: entries.set(key, "0x7fffffffffff"),
}


@pytest.mark.parametrize("poison", TYPES)
def test_a_value_of_another_type_is_an_error_of_its_key_alone(
    replicas: tuple[httpx.Client, httpx.Client], entries: redis.Redis, poison: str
) -> None:
    one, other = replicas
    poisoned, sound = predict(one, png_bytes()), predict(one, png_bytes())
    entries.delete(KEY + poisoned["prediction_id"])
    TYPES[poison](entries, KEY + poisoned["prediction_id"])
    for _ in range(3):
        assert_problem(other.get(poisoned["links"]["gradcam"]), 503, "store-unavailable")
        assert other.get(sound["links"]["picture"]).status_code == 200
        assert predict(other, png_bytes())["stored"]
    assert "fusionlens_store_up 1.0" in other.get("/metrics").text


@pytest.mark.parametrize("poison", TYPES)
def test_poisoned_counts_are_replaced(
    tiny_bundle: Path, shared: RedisServer, entries: redis.Redis, tmp_path: Path, poison: str
) -> None:
    key = add_key(file := tmp_path / "keys.toml", "poisoned", ["predict"], requests_per_minute=60.0, concurrent=2)
    rate, running = "fusionlens:limit:{poisoned}:rate", "fusionlens:limit:{poisoned}:running"
    settings = Settings(bundle=tiny_bundle, keys=file, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as client:
        for name in (rate, running):
            entries.delete(rate, running)
            TYPES[poison](entries, name)
            assert client.get("/model", headers={"x-api-key": key}).status_code == 200
            assert 0 < entries.pttl(rate) <= 12_000
            assert entries.type(running) in (b"none", b"zset") and entries.zcard(running) <= 1


def test_forged_leases_end(tiny_bundle: Path, shared: RedisServer, entries: redis.Redis, tmp_path: Path) -> None:
    key = add_key(file := tmp_path / "keys.toml", "leased", ["predict"], concurrent=2)
    running = "fusionlens:limit:{leased}:running"
    settings = Settings(bundle=tiny_bundle, keys=file, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as client:
        for score in ("+inf", "9e99", "99999999999"):
            entries.zadd(running, {"forged": score, "also": score, "third": score})
            assert client.get("/model", headers={"x-api-key": key}).status_code == 200, score
            assert entries.ttl(running) <= 300


def test_what_was_deleted_does_not_come_back(replicas: tuple[httpx.Client, httpx.Client], entries: redis.Redis) -> None:
    one, other = replicas
    answer = predict(one, png_bytes())
    key = KEY + answer["prediction_id"]
    kept = cast(bytes, entries.get(key))
    assert one.delete(f"/predictions/{answer['prediction_id']}").status_code == 204
    entries.set(key, kept)
    for client in replicas:
        for link in links_of(answer):
            assert_problem(client.get(link), 404, "unknown-prediction")
        assert_problem(client.delete(f"/predictions/{answer['prediction_id']}"), 404, "unknown-prediction")
    assert 0 < entries.pttl(f"fusionlens:deleted:{answer['prediction_id']}") <= 900_000
    assert other.post("/gradcam", content=png_bytes(), headers=PNG).status_code == 200


def test_nobody_can_keep_a_prediction_beyond_its_time(
    tiny_bundle: Path, shared: RedisServer, entries: redis.Redis
) -> None:
    settings = Settings(bundle=tiny_bundle, store_ttl_s=1.0, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as client:
        answer = predict(client, png_bytes())
        link, key = answer["links"]["picture"], KEY + answer["prediction_id"]
        assert client.get(link).status_code == 200
        entries.persist(key)
        wait_until(lambda: client.get(link).status_code != 200)
        assert_problem(client.get(link), 404, "unknown-prediction")
        assert entries.exists(key)


@pytest.mark.slow
def test_a_key_has_its_limits_over_all_replicas(tiny_bundle: Path, shared: RedisServer, tmp_path: Path) -> None:
    key = add_key(file := tmp_path / "keys.toml", "hospital", ["predict"], requests_per_minute=30.0)
    settings = Settings(bundle=tiny_bundle, keys=file, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as one, serving(settings) as other:
        began_s, allowed, asked = time.monotonic(), 0, cycle((one, other))
        while (answer := next(asked).get("/model", headers={"x-api-key": key})).status_code == 200:
            allowed += 1
        passed_s = time.monotonic() - began_s
        assert 5 <= allowed <= 5 + (passed_s + 1) / 2  # ten seconds' worth in all, not each
        assert_problem(answer, 429, "too-many-requests")
        wait_s = int(answer.headers["retry-after"])
        assert 1 <= wait_s <= 2
        time.sleep(wait_s)
        assert other.get("/model", headers={"x-api-key": key}).status_code == 200


def test_what_the_shared_count_refuses_a_replica_does_not_count(
    tiny_bundle: Path, shared: RedisServer, tmp_path: Path, entries: redis.Redis
) -> None:
    key = add_key(file := tmp_path / "keys.toml", "lab", ["predict"], requests_per_minute=6.0)
    settings = Settings(bundle=tiny_bundle, keys=file, **shared.settings)  # type: ignore[arg-type]
    with serving(settings) as one, serving(settings) as other:
        for client, status in ((one, 200), (other, 429), (other, 429)):  # one in ten seconds
            assert client.get("/model", headers={"x-api-key": key}).status_code == status
        entries.delete(*entries.keys("fusionlens:limit:{lab}*"))  # as if all had waited as long as they were told
        assert other.get("/model", headers={"x-api-key": key}).status_code == 200


def test_requests_at_once_are_counted_over_all_replicas_and_given_back(
    tiny_bundle: Path, shared: RedisServer, tmp_path: Path, entries: redis.Redis
) -> None:
    key = add_key(file := tmp_path / "keys.toml", "single", ["predict"], concurrent=2)
    settings = Settings(bundle=tiny_bundle, keys=file, **shared.settings)  # type: ignore[arg-type]
    running = "fusionlens:limit:{single}:running"
    with serving(settings) as client:
        entries.zadd(running, {"of another replica": time.time() + 60, "of one killed": time.time() - 1})
        assert client.get("/model", headers={"x-api-key": key}).status_code == 200
        entries.zadd(running, {"of a third": time.time() + 60})
        assert_problem(client.get("/model", headers={"x-api-key": key}), 429, "too-many-requests")
        assert entries.zcard(running) == 2
    entries.delete(running)


def test_a_caller_that_leaves_leaves_no_reply_to_another(shared: RedisServer) -> None:
    async def check() -> None:
        store = SharedRedis(connect(shared.url, 5.0), Metrics())
        await asyncio.gather(*(store.client.set(f"n{n}", n) for n in range(50)))
        for turn in range(200):
            leaving = asyncio.create_task(store.execute(lambda: store.client.get("n1")))
            await asyncio.sleep(0 if turn % 2 else 0.0003)
            leaving.cancel()
            asked = [partial(store.client.get, f"n{n}") for n in range(50)]
            found = await asyncio.gather(*(store.execute(one) for one in asked))
            assert [int(cast(bytes, one)) for one in found] == list(range(50))
        await store.close()

    asyncio.run(check())


@pytest.mark.slow
def test_two_worker_processes_share_the_port_and_the_store(
    tiny_bundle: Path, shared: RedisServer, tmp_path: Path
) -> None:
    import signal

    from tests.support import served_process as process

    variables = {f"FUSIONLENS_{name.upper()}": value for name, value in shared.settings.items()}
    variables |= {"FUSIONLENS_WORKERS": "2", "FUSIONLENS_METRICS": "false", "FUSIONLENS_DRAIN_S": "0.2"}
    env = process.environment(process.ROOT, FUSIONLENS_BUNDLE=str(tiny_bundle), **variables)
    with process.serving(tmp_path, env) as served:
        for _ in range(20):
            with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:  # a new connection
                answer = predict(client, png_bytes())
                assert client.get(answer["links"]["gradcam"]).status_code == 200
        status, errors = served.stop(signal.SIGTERM)
        assert (status, errors) == (0, "")


def test_a_service_given_by_its_application_closes_its_connections(tiny_bundle: Path, shared: RedisServer) -> None:
    app = create_app(Settings(bundle=tiny_bundle, **shared.settings))  # type: ignore[arg-type]
    with redis.Redis(unix_socket_path=str(shared.socket), password=PASSWORD) as asking:
        before = len(cast(list[Any], asking.client_list()))
        with serving_app(app) as client:
            predict(client, png_bytes())
            assert len(cast(list[Any], asking.client_list())) > before
        wait_until(lambda: len(cast(list[Any], asking.client_list())) <= before)


@pytest.fixture
def short_of_memory(entries: redis.Redis) -> Iterator[None]:
    """Redis takes nothing more."""
    entries.config_set("maxmemory", "1")
    entries.config_set("maxmemory-policy", "noeviction")
    yield
    entries.config_set("maxmemory", "0")


def test_what_cannot_be_deleted_whole_is_not_deleted(
    replicas: tuple[httpx.Client, httpx.Client], entries: redis.Redis, request: pytest.FixtureRequest
) -> None:
    client, answer = replicas[0], predict(replicas[0], png_bytes())
    request.getfixturevalue("short_of_memory")
    path = f"/predictions/{answer['prediction_id']}"
    assert "cannot be reached" in assert_problem(client.delete(path), 503, "store-unavailable")
    assert client.get(answer["links"]["picture"]).status_code == 200
    entries.config_set("maxmemory", "0")
    assert client.delete(path).status_code == 204


def test_leases_that_redis_missed_the_end_of_are_ended_by_the_next_request(
    tiny_bundle: Path, tmp_path: Path, shared: RedisServer, entries: redis.Redis
) -> None:
    async def check() -> None:
        url, key = shared.settings["redis_url"], f"fusionlens:limit:{{{tmp_path.name}}}:running"
        client = SharedRedis(connect(url, 0.2), Metrics())
        limits = RedisLimits(client)
        leases = [(await limits.acquire(tmp_path.name, 0.0, 0.0, 2)).lease for _ in range(2)]
        assert (await limits.acquire(tmp_path.name, 0.0, 0.0, 2)).at_concurrency_limit
        entries.client_pause(1500)
        for lease in leases:
            with pytest.raises(StoreUnavailable):
                await limits.release(tmp_path.name, str(lease))
        while True:
            try:
                outcome = await limits.acquire(tmp_path.name, 0.0, 0.0, 2)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
        assert outcome.lease and entries.zcard(key) == 1
        await client.close()

    asyncio.run(check())
