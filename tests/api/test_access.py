"""Keys: who is let in, before a byte of the body is read, and what is whose."""

from __future__ import annotations

import asyncio
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from app.api.application import create_app
from app.api.keys.keys import Key
from app.api.keys.limits import BURST_S, Limiter
from app.errors import TooManyRequests
from app.server.provision import add_key
from app.settings import Settings
from tests.support.asking import PNG, assert_problem, links_of, noise_bytes, png_bytes
from tests.support.serving import serving, serving_app
from tests.support.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the keys by name."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    made = {name: add_key(file, name, ["predict"]) for name in ("hospital", "clinic")}
    made["scraper"] = add_key(file, "scraper", ["metrics"])
    made["operator"] = add_key(file, "operator", ["admin"])
    made["slow"] = add_key(file, "slow", ["predict"], requests_per_minute=20.0)
    made["single"] = add_key(file, "single", ["predict"], concurrent=1)
    return file, made


@pytest.fixture(scope="module")
def guarded(tiny_bundle: Path, keys: tuple[Path, dict[str, str]]) -> Iterator[httpx.Client]:
    """A client, without a key yet, of a service that wants one."""
    with serving(Settings(bundle=tiny_bundle, keys=keys[0], max_upload_bytes=2_000_000_000)) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("GET", "/gradcam"),
        ("POST", "/gradcam"),
        ("GET", "/attention"),
        ("GET", "/tokens"),
        ("GET", "/novelty"),
        ("POST", "/novelty"),
        ("GET", "/similar"),
        ("POST", "/similar"),
        ("DELETE", "/predictions/x"),
        ("GET", "/model"),
        ("GET", "/metrics"),
        ("POST", "/admin/reload"),
        ("GET", "/no-such-thing"),
        ("GET", "//health/live"),
        ("GET", "/health/live/"),
        ("GET", "/web"),
    ],
)
@pytest.mark.parametrize("headers", [{}, bearer("fl_wrong"), {"x-api-key": ""}, {"authorization": "Basic eDp5"}])
def test_without_a_key_nothing_is_told(guarded: httpx.Client, method: str, path: str, headers: dict[str, str]) -> None:
    response = guarded.request(method, path, headers=headers)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/", "/web/app.js", "/docs", "/openapi.json"])
def test_what_holds_nothing_of_anyone_is_open(guarded: httpx.Client, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_a_key_opens_what_it_has_the_right_to(guarded: httpx.Client, keys: tuple[Path, dict[str, str]]) -> None:
    of = keys[1]
    assert guarded.get("/model", headers=bearer(of["hospital"])).status_code == 200
    assert guarded.get("/model", headers={"x-api-key": of["hospital"]}).status_code == 200
    assert guarded.get("/metrics", headers=bearer(of["scraper"])).status_code == 200
    assert "'metrics'" in assert_problem(guarded.get("/metrics", headers=bearer(of["hospital"])), 403, "forbidden")
    assert_problem(guarded.get("/model", headers=bearer(of["scraper"])), 403, "forbidden")
    assert_problem(guarded.post("/admin/reload", headers=bearer(of["hospital"])), 403, "forbidden")
    reloaded = guarded.post("/admin/reload", headers=bearer(of["operator"]))
    assert (reloaded.status_code, reloaded.json()["changed"]) == (200, False)


def test_without_keys_nobody_may_reload(client: httpx.Client) -> None:
    assert "SIGHUP" in assert_problem(client.post("/admin/reload"), 403, "forbidden")


def test_a_gigabyte_without_a_key_is_refused_within_its_first_64_kb(guarded: httpx.Client) -> None:
    host, port = guarded.base_url.host, guarded.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=PATIENCE_S) as sender:
        head = (
            f"POST /predict HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/png\r\ncontent-length: 1000000000\r\n\r\n"
        )
        sender.sendall(head.encode())
        sent = 0
        while sent < 64 * 1024:  # and it waits for no more of it
            sender.sendall(bytes(1024))
            sent += 1024
            sender.settimeout(0.05 if sent < 64 * 1024 else PATIENCE_S)
            try:
                answer = sender.recv(4096)
                break
            except TimeoutError:
                sender.settimeout(PATIENCE_S)
        else:
            answer = sender.recv(4096)
        assert answer.startswith(b"HTTP/1.1 401 ")
        with pytest.raises(OSError):  # reset or broken pipe: closed in any case
            for _ in range(1000):
                sender.sendall(bytes(64 * 1024))


def test_a_prediction_belongs_to_the_key_that_made_it(guarded: httpx.Client, keys: tuple[Path, dict[str, str]]) -> None:
    mine, other = (bearer(keys[1][name]) for name in ("hospital", "clinic"))
    answer = guarded.post("/predict", content=png_bytes(), headers=PNG | mine).json()
    offered = links_of(answer)
    etags = [guarded.get(link, headers=mine).headers["etag"] for link in offered]
    # What this bundle lacks has no link, and a stranger is not told that either.
    lacking = [f"/{route}?prediction_id={answer['prediction_id']}" for route in ("novelty", "similar")]
    links, etags = [*offered, *lacking], [*etags, "", ""]
    never = guarded.get("/gradcam", params={"prediction_id": "never"}, headers=other)
    for link, etag in zip(links, etags, strict=True):
        refused = guarded.get(link, headers=other)
        assert_problem(refused, 404, "unknown-prediction")
        assert refused.json() == never.json()
        assert guarded.get(link, headers=other | {"if-none-match": etag}).status_code == 404
    forget = f"/predictions/{answer['prediction_id']}"
    assert_problem(guarded.delete(forget, headers=other), 404, "unknown-prediction")
    assert guarded.get(links[0], headers=mine).status_code == 200
    assert guarded.delete(forget, headers=mine).status_code == 204


def test_beyond_its_rate_a_key_is_429_until_the_time_that_it_is_told(
    guarded: httpx.Client, keys: tuple[Path, dict[str, str]]
) -> None:
    slow, began_s, allowed = bearer(keys[1]["slow"]), time.monotonic(), 0
    while (answer := guarded.get("/model", headers=slow)).status_code == 200:
        allowed += 1
    passed_s = time.monotonic() - began_s
    assert 3 <= allowed <= 3 + (passed_s + 1) / 3  # ten seconds' worth, at 20 a minute
    wait_s = int(answer.headers["retry-after"])
    assert f"20 requests a minute; try again in {wait_s} s" in assert_problem(answer, 429, "too-many-requests")
    assert 1 <= wait_s <= 3
    assert guarded.get("/model", headers=bearer(keys[1]["hospital"])).status_code == 200
    time.sleep(wait_s)
    assert guarded.get("/model", headers=slow).status_code == 200


def test_a_key_has_no_more_requests_at_once_than_it_may(
    guarded: httpx.Client, keys: tuple[Path, dict[str, str]]
) -> None:
    headers, picture = PNG | bearer(keys[1]["single"]), noise_bytes(2500, 2500)
    with ThreadPoolExecutor(4) as callers:
        sent = [callers.submit(guarded.post, "/predict", content=picture, headers=headers) for _ in range(4)]
        answers = [one.result() for one in sent]
    statuses = sorted(one.status_code for one in answers)
    assert statuses[0] == 200 and statuses[-1] == 429 and {*statuses} == {200, 429}
    assert guarded.post("/predict", content=png_bytes(), headers=headers).status_code == 200


def test_the_rate_is_kept_over_any_time() -> None:
    now, key, allowed = [0.0], Key(sha256=["0" * 64], requests_per_minute=60.0), 0
    limiter = Limiter(clock=lambda: now[0])

    async def knock() -> bool:
        try:
            async with limiter.slot("name", key):
                return True
        except TooManyRequests:
            return False

    for _ in range(10_000):
        now[0] += 0.037
        allowed += asyncio.run(knock())
    assert now[0] + BURST_S - 2 <= allowed <= now[0] + BURST_S + 1


def test_a_withdrawn_key_is_out_and_a_second_digest_is_in_after_a_reload(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first, second = add_key(file, "hospital", ["predict", "admin"]), add_key(tmp_path / "new.toml", "x", ["predict"])
    app = create_app(Settings(bundle=tiny_bundle, keys=file))
    with serving_app(app) as client:

        def reload() -> httpx.Response:
            return client.post("/admin/reload", headers=bearer(first))

        digest = (tmp_path / "new.toml").read_text().split('"')[1]
        whole = file.read_text()
        file.write_text(whole.replace('sha256 = ["', f'sha256 = ["{digest}", "'))
        assert client.get("/model", headers=bearer(second)).status_code == 401
        assert reload().status_code == 200
        assert [client.get("/model", headers=bearer(key)).status_code for key in (first, second)] == [200, 200]
        file.write_text("[keys.hospital]\nsha256 = 5")
        assert "stay as they are" in assert_problem(reload(), 409, "reload-refused")
        assert client.get("/model", headers=bearer(first)).status_code == 200
        file.write_text(f'[keys.hospital]\nsha256 = ["{digest}"]')
        assert reload().status_code == 200
        assert [client.get("/model", headers=bearer(key)).status_code for key in (first, second)] == [401, 200]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("[keys", "is not TOML"),
        ("", "keys: Field required"),
        ("[keys]", "keys: "),
        ('[keys.a]\nsha256 = ["fl_clear-text"]', "keys.a.sha256.0"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nrights = ["root"]', "keys.a.rights"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nlimit = 5', "keys.a.limit"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nconcurrent = 0', "keys.a.concurrent"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nconcurrent = true', "keys.a.concurrent"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nconcurrent = "4"', "keys.a.concurrent"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nrequests_per_minute = true', "keys.a.requests_per_minute"),
        (f'[keys.a]\nsha256 = ["{"0" * 64}"]\nrequests_per_minute = inf', "keys.a.requests_per_minute"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_starts_nothing(
    content: str | None,
    sentence: str,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "keys.toml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("FUSIONLENS_KEYS", str(file))
    assert main(["serve", "--bundle", str(tiny_bundle), "--port", "0"]) == 1
    assert sentence in capsys.readouterr().err


def test_a_new_key_is_shown_once_and_only_its_digest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.toml"
    assert main(["new-key", "hospital", "--file", str(file), "--concurrent", "4"]) == 0
    key = capsys.readouterr().out.strip()
    assert len(key) > 40 and key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    assert main(["new-key", "hospital", "--file", str(file)]) == 1
    assert "already" in capsys.readouterr().err
    assert main(["new-key", "no.good", "--file", str(file)]) == 1
    assert file.read_text() == before
    assert main(["new-key", "clinic"]) == 1
    assert "--file" in capsys.readouterr().err


def test_setup_tells_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it writes is tested in tests/deploy/test_setup.py."""
    folder = tmp_path / "secrets"
    for _ in range(2):
        assert main(["setup", str(folder)]) == 0
        said = capsys.readouterr().out
        assert str(folder / "operator" / "first_key") in said
        made = [file.read_text() for file in folder.rglob("*") if file.is_file()]
        assert len(made) == 8 and not [content for content in made if content in said]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"workers": 2}, "set redis_url"),
        ({"workers": 2, "redis_url": "redis://x", "redis_secret": "s" * 32}, "set metrics to false"),
        ({"redis_url": "redis://x"}, "redis_secret"),
        ({"redis_url": "redis://x", "redis_secret": "short"}, "at least 32"),
    ],
)
def test_what_would_be_unsafe_is_refused_at_start(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_where_others_can_reach_it_nothing_is_served_without_keys_unless_that_is_said(
    host: str, keys: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--host", host, "--port", "0"]) == 1
    assert f"Anyone who reaches {host}" in capsys.readouterr().err
    create_app(Settings(host=host, allow_anonymous=True))
    create_app(Settings(host=host, keys=keys[0]))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_on_loopback_no_keys_are_needed(host: str) -> None:
    create_app(Settings(host=host))


def test_no_other_origin_is_let_in_but_those_named(
    client: httpx.Client, tiny_bundle: Path, keys: tuple[Path, dict[str, str]]
) -> None:
    ours, other = {"origin": "https://ours.example"}, {"origin": "https://other.example"}
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    closed = client.get("/model", headers=ours)
    assert not [name for name in closed.headers if name.startswith("access-control-")]
    assert client.options("/predict", headers=ours | preflight).status_code == 405
    settings = Settings(bundle=tiny_bundle, keys=keys[0], cors_origins=("https://ours.example",))
    with serving(settings) as opened:
        assert opened.options("/predict", headers=ours | preflight).status_code == 200
        assert opened.options("/predict", headers=other | preflight).status_code == 400
        refused = opened.get("/model", headers=ours)  # without a key: the page must be able to read why
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://ours.example"
        assert "access-control-allow-origin" not in opened.get("/model", headers=other).headers


def test_the_page_lets_no_other_host_in(client: httpx.Client) -> None:
    headers = client.get("/").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/model").headers["x-content-type-options"] == "nosniff"


def test_metrics_and_docs_can_be_switched_off(client: httpx.Client, tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle, metrics=False, docs=False)) as quiet:
        for path in ("/metrics", "/docs", "/openapi.json", "/redoc"):
            assert_problem(quiet.get(path), 404, "not-found")
    for path in ("/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
