"""A service's life: it drains before it stops, and takes up a new bundle while it answers."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.server.provision import add_key
from app.settings import Settings
from tests.support.asking import PNG, assert_problem, png_bytes, predict, with_manifest
from tests.support.pictures import png
from tests.support.served_process import ROOT, Served, environment, serving
from tests.support.serving import serving as serving_here
from tests.support.serving import serving_app
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wire import accepts

DRAIN_S = 4.0  # long enough for a few requests on a busy machine
Operated = Callable[..., AbstractContextManager[tuple[FastAPI, httpx.Client]]]


@dataclass(frozen=True)
class Folder:
    """A bundle's folder as an operator has it: a link that is turned to another version at once."""

    link: Path
    versions: tuple[Path, Path]

    def turn_to(self, version: Path) -> None:
        new = self.link.with_name("new")
        new.unlink(missing_ok=True)
        new.symlink_to(version)
        new.replace(self.link)


@pytest.fixture
def operated(folder: Folder) -> Operated:
    """`operated(**settings)`: an application on the folder, and a client whose key may do everything."""
    key = add_key(file := folder.link.with_name("keys.toml"), "operator", ["predict", "metrics", "admin"])

    @contextmanager
    def serve(**settings: Any) -> Iterator[tuple[FastAPI, httpx.Client]]:
        app = create_app(Settings(bundle=folder.link, keys=file, **settings))
        with serving_app(app) as client:
            client.headers["x-api-key"] = key
            yield app, client

    return serve


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Folder:
    """Two versions of a bundle that give other probabilities; the first is linked."""
    softer = {"temperature": 6.0, "chosen_on": "nothing"}
    second = with_manifest(tiny_bundle, tmp_path / "second", version="2", calibration=softer)
    made = Folder(tmp_path / "bundle", (tiny_bundle, second))
    made.turn_to(tiny_bundle)
    return made


def group_of(served: Served) -> set[int]:
    """The processes of the service: itself and its decoders."""
    group = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            if os.getpgid(int(folder.name)) == served.process.pid:
                group.add(int(folder.name))
    return group


def test_sigterm_goes_on_serving_for_a_while_and_closes_connections(tiny_bundle: Path, tmp_path: Path) -> None:
    """The signal also reaches the decoder processes, as where systemd sends it."""
    env = environment(ROOT, FUSIONLENS_DRAIN_S=str(DRAIN_S), FUSIONLENS_BUNDLE=str(tiny_bundle))
    with serving(tmp_path, env) as served, httpx.Client(base_url=served.address, trust_env=False) as client:
        before = predict(client, png_bytes())
        assert client.get("/health/ready").status_code == 200
        processes = group_of(served)
        assert len(processes) > 1
        began_s = time.monotonic()
        os.killpg(served.process.pid, signal.SIGTERM)
        wait_until(lambda: client.get("/health/ready").status_code != 200)
        for _ in range(3):
            response = client.post("/predict", content=png_bytes(), headers=PNG)
            assert (response.status_code, response.headers["connection"]) == (200, "close")
            assert "about to stop" in assert_problem(client.get("/health/ready"), 503, "not-ready")
            assert client.get("/health/live").status_code == 200
            assert client.get(before["links"]["gradcam"]).status_code == 200
        assert group_of(served) == processes
        _, errors = served.process.communicate(timeout=PATIENCE_S)
        assert (served.process.returncode, errors) == (0, "")
        assert time.monotonic() - began_s > DRAIN_S


def test_a_request_under_way_at_the_end_of_the_drain_is_answered(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = png_bytes()
    env = environment(ROOT, FUSIONLENS_DRAIN_S="0.3", FUSIONLENS_BUNDLE=str(tiny_bundle))
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {len(picture)}\r\n"
    with serving(tmp_path, env) as served, socket.create_connection(("127.0.0.1", served.port)) as sender:
        sender.sendall(head.encode() + b"expect: 100-continue\r\n\r\n")
        assert sender.recv(200).startswith(b"HTTP/1.1 100 ")  # so the body is being read
        sender.sendall(picture[:50])
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(served.port))
        sender.sendall(picture[50:])
        assert sender.recv(200).startswith(b"HTTP/1.1 200 ")
        assert served.process.wait(timeout=PATIENCE_S) == 0


def test_a_second_sigterm_does_not_wait_for_the_first(tiny_bundle: Path, tmp_path: Path) -> None:
    env = environment(ROOT, FUSIONLENS_DRAIN_S="60", FUSIONLENS_BUNDLE=str(tiny_bundle))
    with serving(tmp_path, env) as served:
        assert is_ready(served)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(served))
        assert httpx.get(f"{served.address}/health/live", trust_env=False).status_code == 200
        assert served.stop(signal.SIGTERM) == (0, "")


def test_health_asks_the_service_on_this_machine(tiny_bundle: Path, tmp_path: Path) -> None:
    env = environment(ROOT, FUSIONLENS_BUNDLE=str(tiny_bundle), FUSIONLENS_DRAIN_S="600")

    def health(port: int) -> subprocess.CompletedProcess[str]:
        asking = [sys.executable, "-m", "app", "health"]
        listening = env | {"FUSIONLENS_PORT": str(port)}
        return subprocess.run(asking, cwd=tmp_path, env=listening, capture_output=True, text=True, timeout=PATIENCE_S)

    with serving(tmp_path, env) as served:
        port = served.port
        ran = health(port)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ready\n", "")
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(served))
        ran = health(port)
        assert ran.returncode == 1 and "about to stop" in ran.stderr
    ran = health(port)
    assert ran.returncode == 1 and "Nothing answers at" in ran.stderr


def test_sighup_takes_up_the_new_bundle_and_explains_by_the_old_what_it_predicted(
    folder: Folder, tmp_path: Path
) -> None:
    env = environment(ROOT, FUSIONLENS_BUNDLE=str(folder.link), FUSIONLENS_DRAIN_S="0")
    with serving(tmp_path, env) as served, httpx.Client(base_url=served.address, trust_env=False) as client:
        old = predict(client, png_bytes())
        overlay = client.get(old["links"]["gradcam"] + "&format=json").json()
        folder.turn_to(folder.versions[1])
        served.process.send_signal(signal.SIGHUP)
        new = wait_for_version(client, "2")
        assert new["probabilities"] != old["probabilities"]
        assert client.get(old["links"]["gradcam"] + "&format=json&against=benign&target=malignant").status_code == 200
        again = client.get(old["links"]["gradcam"] + "&format=json").json()
        assert again == overlay and again["provenance"]["bundle_sha256"] == old["model"]["sha256"]
        assert served.stop(signal.SIGTERM) == (0, "")


def is_ready(served: Served) -> bool:
    return httpx.get(f"{served.address}/health/ready", trust_env=False).status_code == 200


def another(client: httpx.Client) -> httpx.Client:
    """A client with connections of its own."""
    return httpx.Client(base_url=client.base_url, headers=client.headers, timeout=PATIENCE_S, trust_env=False)


def wait_for_version(client: httpx.Client, version: str) -> dict[str, Any]:
    wait_until(lambda: predict(client, png_bytes())["model"]["version"] == version)
    return predict(client, png_bytes())


def test_a_bundle_that_cannot_be_served_changes_nothing(folder: Folder, operated: Operated, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder.versions[1], broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-1])
    with operated() as (_, client):
        before = predict(client, png_bytes())
        for version in (broken, tmp_path / "absent"):
            folder.turn_to(version)
            detail = assert_problem(reload(client), 409, "reload-refused")
            assert "model.safetensors: its sha256 is" in detail or "manifest.json" in detail
            after = predict(client, png_bytes())
            assert (after["model"], after["probabilities"]) == (before["model"], before["probabilities"])
        assert 'fusionlens_reloads_total{outcome="refused"} 2.0' in client.get("/metrics").text
        folder.turn_to(folder.versions[0])
        assert reload(client).json()["changed"] is False


def reload(client: httpx.Client) -> httpx.Response:
    """`POST /admin/reload` by a client whose key has that right."""
    return client.post("/admin/reload", timeout=PATIENCE_S)


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "status"), [(1, 200), (0, 410)])
def test_predictions_of_a_replaced_bundle_are_explained_while_it_is_loaded(
    kept: int, status: int, folder: Folder, operated: Operated
) -> None:
    with operated(previous_bundles=kept, store_ttl_s=3.0) as (app, client):
        app.state.models.store._clock = lambda: 0.0  # the prediction stays, however long the reload takes
        link = predict(client, png_bytes())["links"]["gradcam"]
        folder.turn_to(folder.versions[1])
        assert reload(client).json()["changed"] is True
        response = client.get(link)
        assert response.status_code == status
        if status == 410:
            assert "send the picture again" in assert_problem(response, 410, "model-gone")
        assert len(app.state.models.services) == 1 + kept
        wait_until(lambda: len(app.state.models.services) == 1)  # by now nothing of the old one can be asked about


def test_a_bundle_that_is_no_longer_loaded_leaves_memory_at_once(folder: Folder, operated: Operated) -> None:
    with operated(previous_bundles=0) as (app, client):
        predict(client, png_bytes())
        gone = weakref.ref(app.state.models.current)
        gc.disable()  # cycles of references would wait for it, with a whole model in each
        try:
            folder.turn_to(folder.versions[1])
            assert reload(client).json()["changed"] is True
            client.get("/health/live")  # the request that held it has ended
            assert gone() is None
        finally:
            gc.enable()


@pytest.mark.slow
def test_swaps_under_load_lose_nothing_and_every_answer_is_of_one_version(folder: Folder, operated: Operated) -> None:
    picture, expected = png_bytes(), {}
    for version in folder.versions:
        with serving_here(Settings(bundle=version)) as client:
            answer = predict(client, picture)
            expected[answer["model"]["sha256"]] = answer["probabilities"]
    seen: list[str] = []
    done = threading.Event()
    with operated() as (_, client):

        def ask() -> None:
            with another(client) as own:
                while not done.is_set():
                    answer = predict(own, picture)
                    assert answer["probabilities"] == expected[answer["model"]["sha256"]]
                    explained = own.get(answer["links"]["gradcam"] + "&format=json")
                    if explained.status_code != 410:  # two swaps in between
                        assert explained.json()["provenance"]["bundle_sha256"] == answer["model"]["sha256"]
                    seen.append(answer["model"]["sha256"])

        failures: list[BaseException] = []

        def watched() -> None:
            try:
                ask()
            except BaseException as error:
                failures.append(error)
                raise

        callers = [threading.Thread(target=watched) for _ in range(3)]
        for caller in callers:
            caller.start()
        for n in range(4):
            folder.turn_to(folder.versions[(n + 1) % 2])
            assert reload(client).json()["changed"] is True
        done.set()
        for caller in callers:
            caller.join()
    assert failures == [] and {*seen} == {*expected} and len(seen) > 4


def test_a_large_request_under_way_ends_on_the_bundle_that_it_began_with(folder: Folder, operated: Operated) -> None:
    picture = png(6250, 4000, 8, 2, bytes(4000 * (1 + 3 * 6250)))
    answers: list[dict[str, Any]] = []
    with operated() as (app, client):
        first = client.get("/model").json()["sha256"]
        sender = threading.Thread(target=lambda: answers.append(predict(client, picture)))
        sender.start()
        wait_until(lambda: app.state.models.current._decoding, pause_s=0.001)
        folder.turn_to(folder.versions[1])
        with another(client) as own:
            assert reload(own).json()["changed"] is True
        sender.join()
    assert answers[0]["model"]["sha256"] == first
