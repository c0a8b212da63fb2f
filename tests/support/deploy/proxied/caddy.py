"""Caddy with a configuration of ours, and a client that trusts the authority alone that Caddy made for localhost."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.deploy import loopback
from tests.support.waiting import PATIENCE_S, wait_until

Answer = tuple[int, bytes, dict[str, str]]


class Proxy:
    """A running Caddy, and a client of it. It asks by TLS, on a connection for each request."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.log = process, folder / "caddy.log"
        data = folder / "caddy"
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
        plain = socket.create_connection(("localhost", 443), timeout=PATIENCE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(plain, server_hostname="localhost")

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, list[str], dict[str, str]]:
        """Status, words of the body, headers by their names in lower case."""
        connection = http.client.HTTPSConnection("localhost", context=self._context, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode().split(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def send(self, request: bytes) -> Answer:
        """Status, body, and headers of what is answered to these bytes; a status of 0 where it is nothing."""
        with self.connected() as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection, method=request.partition(b" ")[0].decode("latin-1"))
            try:
                answer.begin()
                return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
            except (http.client.HTTPException, OSError):
                return 0, b"", {}

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def proxying(caddy: str, caddyfile: Path, folder: Path) -> Iterator[Proxy]:
    """Caddy on the ports 80 and 443, and all that it writes in `folder`. If the block fails, its log is printed."""
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen([caddy, "run", "--config", caddyfile], env=environment, stdout=log, stderr=log)
    try:
        loopback.wait_for("localhost", 443)
        yield Proxy(process, folder)
    except BaseException:
        print((folder / "caddy.log").read_text()[-3000:])
        raise
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)
