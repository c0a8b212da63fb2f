"""What Caddy writes down of requests that hold secrets: python -m …proxied.logged CADDY CADDYFILE FOLDER.

Requests that are answered, and those that fail in every way that Caddy logs, carry a secret in each place where a
client or a replica may put one. None of them may stand in anything that Caddy wrote.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.deploy import loopback
from tests.support.deploy.proxied.caddy import Proxy, proxying
from tests.support.deploy.proxied.echo import Echo, Echoes, broken

ADDRESSES = ("127.0.0.2", "127.0.0.3")
GONE = "127.0.0.9"  # nothing listens there
# Names that clients have used for keys, whether or not the service reads them, and in whatever case they are sent.
NAMES = """
X-API-Key x-api-key X-Api-KEY X_API_Key X.API.Key Api-Key X-Auth-Token X-Access-Token Authorization authorization
Proxy-Authorization PROXY-AUTHORIZATION Cookie cookie Referer Idempotency-Key X-Request-ID X-Forwarded-For Forwarded
User-Agent If-None-Match Via Origin
"""
ANSWERED = "Set-Cookie Location Link ETag X-API-Key Authorization WWW-Authenticate X-Request-ID"
TARGETS = "https://user:{}@localhost/model http://localhost/{} {} *{} //{}/model /{} /%0A{}"  # {}: where a secret goes


class Secrets:
    """Makes secrets, and remembers each with the place that it was put into."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def new(self, place: str) -> str:
        """As an API key is: with characters that need no escape anywhere."""
        secret = f"fl_{secrets.token_hex(16)}"
        self.places[secret] = place
        return secret

    def in_text(self, text: str) -> set[str]:
        """The places whose secrets stand in a text, as they are or in base64."""
        random = {secret: secret.removeprefix("fl_") for secret in self.places}
        plain = {secret for secret in self.places if random[secret] in text}
        tokens = re.findall(r"[A-Za-z0-9+/]{24,}", text)
        decoded = b" ".join(base64.b64decode(token[: len(token) // 4 * 4]) for token in tokens).decode("latin-1")
        return {self.places[secret] for secret in plain | {s for s in self.places if random[s] in decoded}}


def main(caddy: str, caddyfile: Path, folder: Path) -> None:
    loopback.up()
    echoes = Echoes(*ADDRESSES)
    for name, text in {"as it is": caddyfile.read_text(), "most verbose": verbose(caddyfile.read_text())}.items():
        own = folder / name.replace(" ", "-")
        own.mkdir()
        configuration = own / "Caddyfile"
        configuration.write_text(text)
        loopback.resolve(own, api=echoes.addresses)
        sent = Secrets()
        with proxying(caddy, configuration, own) as proxy:
            ask_everything(proxy, sent, own)
        check(own, sent, logs_all="most" in name)
        print(f"{name}: none of {len(sent.places)} secrets is in what Caddy wrote")


def verbose(configuration: str) -> str:
    """The configuration with a log of every request, and with what Caddy says for debugging."""
    site = "{$FUSIONLENS_SITE:localhost} {\n"
    assert site in configuration
    return configuration.replace(site, f"{site}\tlog\n").replace("{\n", "{\n\tdebug\n", 1)


def ask_everything(proxy: Proxy, sent: Secrets, folder: Path) -> None:
    with answering(sent, "in an answer"):
        for method, path in (("GET", "/model"), ("POST", "/predict"), ("DELETE", "/predictions/1")):
            assert ask(proxy, sent, method, path)[0] == 200
    for path in ("/metrics", "/admin/reload"):
        assert ask(proxy, sent, "GET", path)[0] == 404
    assert ask(proxy, sent, "GET", "/model%0A")[0] == 400
    assert ask(proxy, sent, "GET", "/grafana/x")[0] == 502  # no such host
    with broken(*ADDRESSES):
        for method, path in (("GET", "/gradcam"), ("POST", "/predict"), ("DELETE", "/predictions/1")):
            assert ask(proxy, sent, method, path)[0] == 502
    with answering(sent, "in an answer that is torn off"):
        ask(proxy, sent, "GET", "/torn")
    headers = {name: sent.new(f"too much: {name}") for name in ("X-API-Key", "Referer")}
    assert proxy.ask("POST", f"/predict?{sent.new('too much: query')}", b"x" * 25_000_000, **headers)[0] == 413
    hung_up(proxy, sent)
    by_no_tls(sent)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{GONE} api\n")
    while ask(proxy, sent, "GET", "/gradcam")[0] == 200:
        time.sleep(0.2)  # until the proxy asks for the addresses again


@contextmanager
def answering(sent: Secrets, place: str) -> Iterator[None]:
    Echo.answers_with.update({name: sent.new(f"{place}: {name}") for name in ANSWERED.split()})
    yield
    Echo.answers_with.clear()


def ask(proxy: Proxy, sent: Secrets, method: str, path: str, declared: int = 0) -> tuple[int, bytes, dict[str, str]]:
    return proxy.send(request(sent, method, path, declared))


def request(sent: Secrets, method: str, path: str, declared: int = 0) -> bytes:
    """A request with a secret in every place; its body is as long as it declares, if that is not another length."""
    what = f"{method} {path}"
    query = f"prediction_id={sent.new(f'{what}: query')}&{sent.new(f'{what}: name of a parameter')}"
    body = f"key={sent.new(f'{what}: body')}".encode()
    lines = [f"{method} {path}/{sent.new(f'{what}: path')}?{query} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {sent.new(f'{what}: {name}')}" for name in NAMES.split()]
    lines += [f"Authorization: {scheme} {sent.new(f'{what}: {scheme}')}" for scheme in ("Bearer", "bearer", "Digest")]
    basic = base64.b64encode(f"user:{sent.new(f'{what}: Basic')}".encode()).decode()
    lines += [f"Authorization: Basic {basic}", f"Content-Length: {declared or len(body)}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def hung_up(proxy: Proxy, sent: Secrets) -> None:
    """A body that breaks off, bytes that are no HTTP, and targets that are no paths."""
    with proxy.connected() as connection:
        connection.sendall(request(sent, "POST", "/predict", declared=1_000_000))
    with proxy.connected() as connection:
        connection.sendall(f"{sent.new('no HTTP')}\r\n\r\n".encode())
    for target in TARGETS.split():
        proxy.send(f"GET {target.format(sent.new(target))} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with broken(*ADDRESSES):
            proxy.send(f"GET {target.format(sent.new(target))} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    proxy.send(f"CONNECT {sent.new('CONNECT')}:443 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def by_no_tls(sent: Secrets) -> None:
    """Where TLS is spoken, and where a redirection to it is all that there is."""
    for port in (80, 443):
        with socket.create_connection(("localhost", port), timeout=20) as connection:
            connection.sendall(request(sent, "GET", "/model"))
            assert connection.recv(65536)  # of what is no TLS, Caddy's TLS says so


def check(folder: Path, sent: Secrets, logs_all: bool) -> None:
    log = (folder / "caddy.log").read_text()
    written = [json.loads(line) for line in log.splitlines()]
    failed = {entry.get("status") for entry in written if str(entry.get("logger")).startswith("http.log.error")}
    assert {502, 503} & failed, f"no failure in the log: {failed}"
    assert any(entry["msg"] == "aborting with incomplete response" for entry in written)
    requests = [entry for entry in written if str(entry.get("logger")).startswith("http.log.access")]
    assert bool(requests) is logs_all, len(requests)
    assert not requests or {"/model", "/predictions"} <= {entry["request"]["uri"] for entry in requests}
    for file in folder.rglob("*"):
        if file.is_file():
            places = sent.in_text(file.read_text(errors="replace"))
            assert not places, f"{file.name} holds what was sent in {sorted(places)}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
