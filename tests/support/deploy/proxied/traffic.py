"""Caddy in front of three small servers, in a network of its own: python -m …proxied.traffic CADDY CADDYFILE FOLDER."""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
from pathlib import Path

from tests.support.deploy import loopback
from tests.support.deploy.proxied.caddy import Proxy, proxying
from tests.support.deploy.proxied.echo import Echo, Echoes, broken
from tests.support.waiting import wait_until

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


def main(caddy: str, caddyfile: Path, folder: Path) -> None:
    loopback.up()
    loopback.resolve(folder, api=ADDRESSES)
    echoes = Echoes(*ADDRESSES)
    with proxying(caddy, caddyfile, folder) as proxy:
        every_replica_is_asked(proxy)
        too_much_is_refused(proxy)
        a_stalled_upload_takes_no_memory(proxy)
        what_broke_off_is_not_sent_again(proxy)
        what_a_client_breaks_is_no_fault_of_a_replica(proxy)
        a_replica_that_is_gone_costs_nothing(proxy, echoes)


def every_replica_is_asked(proxy: Proxy) -> None:
    asked = {proxy.ask("GET", "/model")[1][0] for _ in range(30)}
    assert asked == set(ADDRESSES), asked
    status, _, headers = proxy.ask("GET", "/")
    assert status == 200 and "server" not in headers and "strict-transport-security" not in headers, headers
    insecure = http.client.HTTPConnection("localhost", timeout=20)
    insecure.request("GET", "/predict?a=1")
    answer = insecure.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, "https://localhost/predict?a=1")
    health = http.client.HTTPConnection("127.0.0.1", 2020, timeout=20)
    health.request("GET", "/")
    assert health.getresponse().status == 200
    print("all replicas are asked, by TLS alone")


def too_much_is_refused(proxy: Proxy) -> None:
    most, over = b"x" * 21_000_000, b"x" * 25_000_000
    status, said, _ = proxy.ask("POST", "/predict", most)
    assert (status, said[4]) == (200, hashlib.sha256(most).hexdigest())
    assert proxy.ask("POST", "/predict", over)[0] == 413
    print("a body of 21 MB passes whole, one of 25 MB does not")


def a_stalled_upload_takes_no_memory(proxy: Proxy) -> None:
    """What a client sent and did not end must not wait in the proxy: that would take no key, and all of its memory."""
    sent_mb, uploads, before_mb = 3.9, 40, proxy.memory_mb()
    stalled = [proxy.connected() for _ in range(uploads)]
    for connection in stalled:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n")
        connection.sendall(b"x" * int(sent_mb * 1e6))
    taken_mb = proxy.memory_mb() - before_mb
    for connection in stalled:
        connection.close()
    assert taken_mb < sent_mb * uploads / 2, f"{taken_mb:.0f} MB for {uploads} uploads"
    print(f"{uploads} uploads that stalled after {sent_mb} MB took {taken_mb:.0f} MB")


def what_broke_off_is_not_sent_again(proxy: Proxy) -> None:
    for number, (method, size) in enumerate(
        [(method, size) for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT", "POST") for size in (0, 9, 5_000_000)]
    ):
        for headers in ({}, {"Idempotency-Key": "1"}, {"X-Idempotency-Key": "1"}):
            for _ in ADDRESSES:  # so that there would be connections to use again
                proxy.ask("GET", "/model")
            path = f"/predict?once-{number}-{len(''.join(headers))}"
            with broken(*ADDRESSES):
                assert proxy.ask(method, path, b"x" * size, **headers)[0] == 502
            assert Echo.seen[path] == 1, (method, size, headers, Echo.seen[path])
    print("whatever broke off was asked once")


def what_a_client_breaks_is_no_fault_of_a_replica(proxy: Proxy) -> None:
    for body in (b"not a chunk", b"5\r\nabcd", b"1\r\na"):
        with proxy.connected() as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body
            )
    for _ in ADDRESSES:
        assert proxy.ask("POST", "/predict", b"x" * 25_000_000)[0] == 413
    answers = [proxy.ask("GET", "/model") for _ in range(30)]
    assert {status for status, *_ in answers} == {200}
    assert {said[0] for _, said, _ in answers} == set(ADDRESSES), "replicas were taken for dead"
    print("broken uploads cost nobody else anything")


def a_replica_that_is_gone_costs_nothing(proxy: Proxy, echoes: Echoes) -> None:
    echoes.end(ADDRESSES[0])
    wait_until(lambda: not loopback.is_listening(ADDRESSES[0], 8000))
    began = time.monotonic()
    for number in range(60):
        method, path = (("GET", "/gradcam"), ("POST", "/other"), ("DELETE", "/predictions/one"))[number % 3]
        body = b"x" * 5_000_000 if method == "POST" else b""
        status, said, _ = proxy.ask(method, path, body)
        assert status == 200 and said[0] != ADDRESSES[0], (status, said)
        assert said[4] == hashlib.sha256(body).hexdigest()
    print(f"60 requests after one replica was gone: all answered, in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
