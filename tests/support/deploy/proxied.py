"""Caddy in front of three replicas, in a network of its own.

Run as `python -m tests.support.deploy.proxied CADDY CADDYFILE FOLDER`.

The replicas are small servers that answer with what reached them, or break off as a killed process does.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from tests.support.deploy import loopback
from tests.support.waiting import wait_until

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


class Replica(BaseHTTPRequestHandler):
    """Answers with its address, method, path and the digest of the body; breaks off those told to."""

    protocol_version = "HTTP/1.1"
    breaks: ClassVar[set[str]] = set()  # addresses of replicas that take a request in and then are gone
    seen: ClassVar[Counter[str]] = Counter()  # requests that reached a replica, by path
    connections: ClassVar[list[tuple[str, socket.socket]]] = []  # with the address that they came to

    def setup(self) -> None:
        super().setup()
        self.connections.append((self.connection.getsockname()[0], self.connection))

    def do_GET(self) -> None:
        address, path = str(self.connection.getsockname()[0]), self.path.partition("?")[0]
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.seen[self.path] += 1
        if address in self.breaks or len(body) < length:
            self.close_connection = True
            return
        answer = f"{address} {self.command} {path} {len(body)} {hashlib.sha256(body).hexdigest()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Not here."""


def serve(address: str) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer((address, 8000), Replica)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Client:
    """Asks the proxy by TLS, and trusts the authority alone that Caddy made for localhost."""

    def __init__(self, data: Path) -> None:
        wait_until((data / "certificates/local/localhost/localhost.crt").exists)
        self._context = ssl.create_default_context(cafile=str(data / "pki/authorities/local/root.crt"))
        wait_until(self._is_answered)  # Caddy writes its certificate before it answers with it

    def _is_answered(self) -> bool:
        try:
            self.connected().close()
        except OSError:
            return False
        return True

    def connected(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("localhost", 443), timeout=60)
        return self._context.wrap_socket(plain, server_hostname="localhost")

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, list[str], dict[str, str]]:
        connection = http.client.HTTPSConnection("localhost", context=self._context, timeout=60)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode().split(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()


def main(caddy: str, caddyfile: str, folder: Path) -> None:
    loopback.up()
    loopback.resolve(folder, api=ADDRESSES)
    servers = {address: serve(address) for address in ADDRESSES}
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    log = (folder / "caddy.log").open("w")
    proxy = subprocess.Popen([caddy, "run", "--config", caddyfile], env=environment, stdout=log, stderr=log)
    try:
        loopback.wait_for("localhost", 443)
        client = Client(folder / "caddy")
        every_replica_is_asked(client)
        what_is_inside_stays_inside(client)
        too_much_is_refused(client)
        what_can_be_asked_twice_is(client)
        what_cannot_be_asked_twice_is_not(client)
        what_a_client_breaks_is_no_fault_of_a_replica(client)
        a_replica_that_is_gone_costs_nothing(client, servers)
    except BaseException:
        print((folder / "caddy.log").read_text()[-3000:])
        raise
    finally:
        proxy.terminate()
        proxy.wait(timeout=20)


def every_replica_is_asked(client: Client) -> None:
    asked = {client.ask("GET", "/model")[1][0] for _ in range(30)}
    assert asked == set(ADDRESSES), asked
    status, _, headers = client.ask("GET", "/")
    assert status == 200 and "server" not in headers and "strict-transport-security" not in headers, headers
    insecure = http.client.HTTPConnection("localhost", timeout=20)
    insecure.request("GET", "/predict?a=1")
    answer = insecure.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, "https://localhost/predict?a=1")
    health = http.client.HTTPConnection("127.0.0.1", 2020, timeout=20)
    health.request("GET", "/")
    assert health.getresponse().status == 200
    print("all replicas are asked, by TLS alone")


def what_is_inside_stays_inside(client: Client) -> None:
    for method, path in (("GET", "/metrics"), ("GET", "//metrics"), ("GET", "/%6Detrics"), ("POST", "/admin/reload")):
        assert client.ask(method, path)[0] == 404, path
    assert not any("metrics" in path or "admin" in path for path in Replica.seen), Replica.seen
    print("metrics and reloads cannot be asked for from outside")


def too_much_is_refused(client: Client) -> None:
    most, over = b"x" * 21_000_000, b"x" * 25_000_000
    status, said, _ = client.ask("POST", "/predict", most)
    assert (status, said[4]) == (200, hashlib.sha256(most).hexdigest())
    assert client.ask("POST", "/predict", over)[0] == 413
    print("a body of 21 MB passes whole, one of 25 MB does not")


def what_can_be_asked_twice_is(client: Client) -> None:
    picture = os.urandom(3_000_000)
    for path in ("/predict", "/gradcam", "/attention", "/tokens"):
        with broken():
            status, said, _ = client.ask("POST", f"{path}?again", picture)
        assert (status, said[1:3], said[4]) == (200, ["POST", path], hashlib.sha256(picture).hexdigest()), said
    with broken():
        assert client.ask("GET", "/gradcam?prediction_id=again")[0] == 200
    twice = {path: times for path, times in Replica.seen.items() if "again" in path}
    assert len(twice) == 5 and max(twice.values()) <= 3, twice
    print(f"of requests that were broken off, these were asked again: {twice}")


def what_cannot_be_asked_twice_is_not(client: Client) -> None:
    for method, path, size in (
        ("DELETE", "/predictions/one", 0),
        ("POST", "/other", 9),
        ("POST", "/predict", 5_000_000),
    ):
        with broken(*ADDRESSES):
            before = Replica.seen[f"{path}?once"]
            assert client.ask(method, f"{path}?once", b"x" * size)[0] == 502
        assert Replica.seen[f"{path}?once"] == before + 1, (path, Replica.seen)
    print("all others were asked once")


def what_a_client_breaks_is_no_fault_of_a_replica(client: Client) -> None:
    for body in (b"not a chunk", b"5\r\nabcd", b"1\r\na"):
        with client.connected() as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body
            )
    for _ in ADDRESSES:
        assert client.ask("POST", "/predict", b"x" * 25_000_000)[0] == 413
    answers = [client.ask("GET", "/model") for _ in range(30)]
    assert {status for status, *_ in answers} == {200}
    assert {said[0] for _, said, _ in answers} == set(ADDRESSES), "replicas were taken for dead"
    print("broken uploads cost nobody else anything")


def a_replica_that_is_gone_costs_nothing(client: Client, servers: dict[str, ThreadingHTTPServer]) -> None:
    servers[ADDRESSES[0]].shutdown()
    servers[ADDRESSES[0]].server_close()
    for address, connection in Replica.connections:
        if address == ADDRESSES[0]:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
    time.sleep(0.2)
    began = time.monotonic()
    for number in range(60):
        method, path = (("GET", "/gradcam"), ("POST", "/other"), ("DELETE", "/predictions/one"))[number % 3]
        status, said, _ = client.ask(method, path, b"x" * 5_000_000 if method == "POST" else b"")
        assert status == 200 and said[0] != ADDRESSES[0], (status, said)
    print(f"60 requests after one replica was gone: all answered, in {time.monotonic() - began:.1f} s")


@contextmanager
def broken(*addresses: str) -> Iterator[None]:
    """Replicas that break off, all but the last if none are named."""
    Replica.breaks.update(addresses or ADDRESSES[:-1])
    yield
    Replica.breaks.clear()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
