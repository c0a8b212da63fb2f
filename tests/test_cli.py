"""The command line, as its users see it: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.__main__ import main
from app.bundles.reader import read_bundle
from app.files import DEMO_BUNDLE
from app.predicting.assessed import WITHOUT_TRUST
from tests.support.served_process import ROOT, SERVE, environment, serving
from tests.support.trusted import write_indexed
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wire import accepts

WEIGHTS = "model.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures of noise: one wide, one upright."""
    rng = np.random.default_rng(5)
    paths = []
    for name, size in (("wide.png", (60, 90, 3)), ("upright.jpg", (120, 80, 3))):
        paths.append(tmp_path / name)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def flipped(tmp_path: Path) -> Path:
    """The demo bundle, which takes a while to verify, with one bit of its weights turned round."""
    folder = tmp_path / "flipped"
    shutil.copytree(DEMO_BUNDLE, folder)
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    return folder


def test_predict_prints_one_answer_a_picture(
    pictures: list[Path], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--bundle", str(tiny_bundle), *map(str, pictures)]
    assert main(arguments) == 0
    plain = capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert plain.err.splitlines() == [WITHOUT_TRUST]
    for path, line, record in zip(pictures, plain.out.splitlines(), records, strict=True):
        probabilities = record["probabilities"]
        assert record["picture"] == str(path)
        assert set(probabilities) == set(read_bundle(tiny_bundle).manifest.classes)
        assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
        assert sum(probabilities.values()) == pytest.approx(1)
        assert line.startswith(f"{path}: {record['label']} (")
        assert all(f"{name} {probability:.3f}" in line for name, probability in probabilities.items())
    assert records[0]["probabilities"] != records[1]["probabilities"]


def test_predict_says_what_the_sender_should_know(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (3, 900)).save(black)
    arguments = ["predict", "--bundle", str(tiny_bundle), str(black)]
    assert main(arguments) == 0
    without_trust, *told = capsys.readouterr().err.splitlines()
    assert without_trust == WITHOUT_TRUST
    assert main([*arguments, "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert told == [f"{black}: {note}" for note in notes]
    assert ["enlarged" in notes[0], "middle" in notes[1], "contrast" in notes[2]] == [True] * 3


def test_gradcam_writes_an_overlay_of_the_pictures_size(
    pictures: list[Path], tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlays = []
    for target in read_bundle(tiny_bundle).manifest.classes:
        out = tmp_path / "overlay.png"
        asked = ["predict", str(pictures[0]), "--bundle", str(tiny_bundle), "--gradcam", str(out), "--target", target]
        assert main(asked) == 0
        with Image.open(out) as overlay, Image.open(pictures[0]) as picture:
            assert (overlay.format, overlay.size) == ("PNG", picture.size)
            overlays.append(overlay.tobytes())
            assert overlays[-1] != picture.tobytes()
    assert len(set(overlays)) == len(overlays)


def test_a_picture_that_cannot_be_read_does_not_keep_the_others_from_their_answers(
    pictures: list[Path], tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, absent = tmp_path / "damaged.png", tmp_path / "absent.png"
    damaged.write_bytes(pictures[0].read_bytes()[:500])
    wide, upright = map(str, pictures)
    assert main(["predict", "--bundle", str(tiny_bundle), wide, str(damaged), str(absent), upright]) == 1
    said = capsys.readouterr()
    assert [line.split(": ")[0] for line in said.out.splitlines()] == [wide, upright]
    _, of_damaged, of_absent = said.err.splitlines()
    assert of_damaged.startswith(f"{damaged}: The PNG picture is damaged")
    assert of_absent == f"{absent}: No such file or directory"


def test_foreign_parts_and_similar_cases_are_what_the_predictor_finds(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    indexed = write_indexed(tmp_path, tiny_bundle)
    picture, out = min(indexed.data.rglob("*.png")), tmp_path / "foreign.png"
    arguments = ["predict", str(picture), "--bundle", str(indexed.bundle), "--novelty", str(out), "--similar", "3"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "How foreign each part is" in said.err
    with Image.open(out) as overlay, Image.open(picture) as original:
        assert (overlay.format, overlay.size) == ("PNG", original.size)
    similar = [line for line in said.out.splitlines() if f"{picture}: similar (" in line]
    assert main([*arguments, "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["similar"]
    assert [f"{picture}: similar ({one['similarity']:.3f}): {one['label']}, {one['name']}" for one in cases] == similar
    assert len(cases) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--similar", "5"], "no index of similar cases: fusionlens-train trust"),
        (["--novelty", "overlay.png"], "cannot say where a picture is foreign: fusionlens-train trust"),
        (["--gradcam", "overlay.png", "--target", "cat"], "Unknown class 'cat': choose one of"),
        (["--target", "cat"], "give --explain OUT.png too"),
        (["other.jpg", "--gradcam", "overlay.png"], "give one picture"),
        (["--gradcam", "absent/overlay.png"], "absent/overlay.png"),
    ],
)
def test_options_that_cannot_be_met_are_refused_with_what_to_do(
    options: list[str],
    sentence: str,
    pictures: list[Path],
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pictures[0].parent)
    assert main(["predict", str(pictures[0]), *options, "--bundle", str(tiny_bundle)]) == 1
    assert sentence in capsys.readouterr().err
    assert not Path("overlay.png").exists()


def test_check_says_what_a_good_bundle_is(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny_bundle)]) == 0
    bundle, said = read_bundle(tiny_bundle), capsys.readouterr().out
    assert said.startswith(f"{tiny_bundle}: good\n")
    for fact in (bundle.sha256, bundle.manifest.name, bundle.manifest.version, *bundle.manifest.classes):
        assert fact in said


def test_check_refuses_a_broken_bundle_naming_the_file(flipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(flipped)]) == 1
    assert capsys.readouterr().err.startswith(f"fusionlens: {WEIGHTS}: its sha256 is ")
    shutil.rmtree(flipped)
    assert main(["check", str(flipped)]) == 1
    said = capsys.readouterr()
    assert f"there is no folder {flipped}" in said.err and said.out == ""


@pytest.mark.parametrize(("name", "value"), [("PORT", "abc"), ("ENGINE", "abacus"), ("STORE_TTL_S", "0")])
def test_a_wrong_setting_is_refused_by_its_name(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FUSIONLENS_{name}", value)
    assert main(["serve"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"fusionlens: setting {name.lower()} (FUSIONLENS_{name}): Input should be ")


def test_a_port_in_use_is_refused_in_a_sentence(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--bundle", str(tiny_bundle), "--port", str(port)]) == 1
    said = capsys.readouterr()
    (sentence,) = said.err.splitlines()
    assert sentence.startswith(f"fusionlens: cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert said.out == ""


def test_a_bundle_that_must_not_be_served_ends_the_service_before_its_port_is_open(
    flipped: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    refused = {
        f"fusionlens: {WEIGHTS}: its sha256 is ": {"FUSIONLENS_BUNDLE": str(flipped)},
        f"fusionlens: manifest.json: its sha256 is {read_bundle(tiny_bundle).sha256}, but {'0' * 64} is pinned": {
            "FUSIONLENS_BUNDLE": str(tiny_bundle),
            "FUSIONLENS_BUNDLE_SHA256": "0" * 64,
        },
    }
    for sentence, settings in refused.items():
        # Somebody has the port, so that a service that opened it would say that it cannot.
        with socket.create_server(("127.0.0.1", 0)) as taken:
            command = [*SERVE, "--port", str(taken.getsockname()[1])]
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment(ROOT, **settings),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert err.startswith(sentence) and len(err.splitlines()) == 1
        assert out == ""


def test_the_curl_lines_that_serve_prints_work_and_sigterm_ends_it_cleanly(tiny_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("SKIPPED LOUDLY: no curl on this machine, so the printed curl lines cannot be tried")
    with serving(tmp_path, environment(ROOT), "--bundle", str(tiny_bundle)) as served:
        assert len(served.curl_lines) == 2
        answers = [
            subprocess.run(shlex.split(line), cwd=tmp_path, check=True, capture_output=True).stdout
            for line in served.curl_lines
        ]
        assert served.stop(signal.SIGTERM) == (0, "")
    assert json.loads(answers[0])["label"] in read_bundle(tiny_bundle).manifest.classes
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert (overlay.format, overlay.size) == ("PNG", (448, 448))


@pytest.mark.slow
def test_a_request_under_way_is_answered_before_the_service_ends(tiny_bundle: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((90, 60), 80).convert("RGB").save(buffer, "PNG")
    picture = buffer.getvalue()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
    settings = {"FUSIONLENS_DEADLINE_S": "8"}
    with serving(tmp_path, environment(ROOT, **settings), "--bundle", str(tiny_bundle)) as served:
        with (
            socket.create_connection(("127.0.0.1", served.port)) as finished,
            socket.create_connection(("127.0.0.1", served.port)) as never_finished,
        ):
            for connection in (finished, never_finished):
                connection.sendall(head.encode() + picture[:100])
            assert httpx.get(f"{served.address}/health/ready").status_code == 200
            served.process.send_signal(signal.SIGINT)
            wait_until(lambda: not accepts(served.port))
            time.sleep(0.5)  # long enough to be cut off, were it not waited for
            finished.sendall(picture[100:])
            assert finished.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
            served.process.wait(timeout=PATIENCE_S)
        assert served.process.returncode == 0


def test_a_misspelt_setting_is_refused_with_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle: Path
) -> None:
    monkeypatch.setenv("FUSIONLENS_BUNDLE_SHA265", "0" * 64)
    assert main(["check", str(tiny_bundle)]) == 1
    assert "did you mean FUSIONLENS_BUNDLE_SHA256?" in capsys.readouterr().err
