"""How uploads are received: counted while they arrive, never on disk, never kept, and a hang-up harms nobody."""

from __future__ import annotations

import asyncio
import encodings.aliases
import io
import pickle
import select
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.api.conftest import MAX_UPLOAD_BYTES
from tests.support.asking import PNG, assert_problem, noise_bytes, png_bytes, predict, scene
from tests.support.pictures import encoded, exif
from tests.support.waiting import PATIENCE_S

HUGE_BYTES = 50_000_000
KINDS = {
    "image/png": b"",
    "multipart/form-data; boundary=line": (
        b'--line\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    ),
}
MARK = b"a mark that is in the upload only"


@contextmanager
def sending(client: httpx.Client, *headers: str) -> Iterator[socket.socket]:
    """A connection on which a POST /predict with these headers has been begun."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S) as connection:
        lines = ["POST /predict HTTP/1.1", "Host: test", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        yield connection


def status_line(connection: socket.socket) -> bytes:
    """The first line of the answer."""
    return connection.makefile("rb").readline()


@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_body_is_refused_while_it_arrives(client: httpx.Client, kind: str) -> None:
    with sending(client, f"Content-Type: {kind}", "Transfer-Encoding: chunked") as connection:
        sent_bytes, piece = 0, KINDS[kind] + bytes(65_536)
        while sent_bytes < HUGE_BYTES and not select.select([connection], [], [], 0)[0]:
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            sent_bytes, piece = sent_bytes + len(piece), bytes(65_536)
        assert b"413" in status_line(connection)
    # What is past the limit lay in the kernel's buffers: it had been sent before the answer was on its way.
    assert MAX_UPLOAD_BYTES <= sent_bytes < HUGE_BYTES / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_declared_length_above_the_limit_is_refused_before_any_byte_of_it(client: httpx.Client, kind: str) -> None:
    headers = (f"Content-Type: {kind}", f"Content-Length: {HUGE_BYTES}", "Expect: 100-continue")
    with sending(client, *headers) as connection:
        assert b"413" in status_line(connection)


def test_a_body_of_just_the_limit_is_taken(client: httpx.Client) -> None:
    picture = png_bytes()
    padded = picture + bytes(MAX_UPLOAD_BYTES - len(picture))
    assert client.post("/predict", content=padded, headers=PNG).status_code == 200


def test_5_mb_are_taken_where_no_temporary_folder_is_writable(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = noise_bytes(1300, 1300)
    assert 5_000_000 < len(picture) < MAX_UPLOAD_BYTES
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError), tempfile.TemporaryFile():
        pass
    assert predict(client, picture)["picture"]["width_px"] == 1300
    assert client.post("/predict", content=picture, headers=PNG).status_code == 200


def test_nothing_of_the_upload_is_kept_but_a_bounded_preview(app: FastAPI, client: httpx.Client) -> None:
    text, camera = PngInfo(), exif(6)
    text.add_text("Comment", MARK.decode())
    camera[0x010E] = MARK.decode()
    for upload in (
        encoded(scene(1500, 1000), "PNG", pnginfo=text, exif=camera),
        encoded(scene(1500, 1000), "JPEG", comment=MARK, exif=camera),
    ):
        assert upload.count(MARK) == 2
        stored = asyncio.run(app.state.models.store.get(predict(client, upload)["prediction_id"], ""))
        kept = pickle.dumps(stored)
        assert stored.upload.preview_jpeg in kept and MARK not in kept
        # of the pixels' code: the tables before it are the same in every JPEG
        assert all(upload[start : start + 32] not in kept for start in range(len(upload) // 2, len(upload) - 32, 32))
        preview = Image.open(io.BytesIO(stored.upload.preview_jpeg))
        assert (preview.size, dict(preview.getexif())) == ((683, 1024), {})
        assert abs(stored.nbytes - len(kept)) < 1500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("abruptly", [False, True])
def test_a_sender_that_hangs_up_leaves_no_error_in_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, kind: str, abruptly: bool
) -> None:
    with sending(client, f"Content-Type: {kind}", "Content-Length: 1000000") as connection:
        connection.sendall(KINDS[kind] + bytes(1000))
        assert client.get("/health/live").status_code == 200  # the service is in the middle of the upload
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert predict(client, png_bytes())["label"]
    assert not caplog.records


CODECS = sorted({*encodings.aliases.aliases.values(), "undefined", "idna", "unicode_escape"} - {"utf_8", "ascii"})


@pytest.mark.parametrize("codec", [*CODECS, "no-such-charset", "x" * 2000, ""])
def test_a_form_in_another_charset_than_utf_8_is_refused_before_it_is_decoded(client: httpx.Client, codec: str) -> None:
    name = b"a" * 100_000  # which punycode would take minutes for
    body = b'--line\r\nContent-Disposition: form-data; name="other"\r\n\r\n' + name + b"\r\n"
    body += KINDS["multipart/form-data; boundary=line"] + png_bytes() + b"\r\n--line--\r\n"
    kind = f"multipart/form-data; boundary=line; charset={codec}"
    answered = client.post("/predict", content=body, headers={"content-type": kind})
    assert "Content-Type" in (text := assert_problem(answered, 400, "malformed-upload")) or "charset" in text


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf8"', "us-ascii"])
def test_a_form_may_say_that_it_is_utf_8(client: httpx.Client, charset: str) -> None:
    body = KINDS["multipart/form-data; boundary=line"] + png_bytes() + b"\r\n--line--\r\n"
    kind = f"multipart/form-data; boundary=line; charset={charset}"
    assert client.post("/predict", content=body, headers={"content-type": kind}).status_code == 200
