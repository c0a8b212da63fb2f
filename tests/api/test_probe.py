"""`fusionlens health` finds the service at every address that it may listen on, and says in a sentence if it is not."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from app.server.probe import why_not_ready
from app.settings import load_settings
from tests.support import served_process as process
from tests.support.waiting import PATIENCE_S

# From the address to listen on to those at which the service must answer.
HOSTS = {
    "127.0.0.1": ("127.0.0.1",),
    "127.0.0.9": ("127.0.0.9",),
    "localhost": ("localhost", "127.0.0.1"),
    "0.0.0.0": ("127.0.0.1", "127.0.0.9"),
    "::1": ("[::1]",),
    "::": ("127.0.0.1", "[::1]"),
}


def need_ipv6() -> None:
    """Skip the test where this machine has no loopback address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("SKIPPED LOUDLY: this machine has no IPv6, so no service can listen on ::1 or ::")


@pytest.mark.parametrize("host", HOSTS)
def test_a_service_is_found_wherever_it_listens(host: str, tiny_bundle: Path, tmp_path: Path) -> None:
    if ":" in host:
        need_ipv6()
    env = process.environment(
        process.ROOT, FUSIONLENS_BUNDLE=str(tiny_bundle), FUSIONLENS_HOST=host, FUSIONLENS_ALLOW_ANONYMOUS="true"
    )
    with process.serving(tmp_path, env) as served:
        shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "localhost" else host
        assert served.address == f"http://{shown}:{served.port}"
        assert why_not_ready(host, served.port) is None
        for address in HOSTS[host]:
            url = f"http://{address}:{served.port}/health/ready"
            assert httpx.get(url, trust_env=False, timeout=PATIENCE_S).status_code == 200
        command = [sys.executable, "-m", "app", "health", "--port", str(served.port)]
        asked = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (asked.returncode, asked.stdout, asked.stderr) == (0, "ready\n", "")


def test_a_service_on_one_address_is_not_looked_for_on_another(tiny_bundle: Path, tmp_path: Path) -> None:
    env = process.environment(process.ROOT, FUSIONLENS_BUNDLE=str(tiny_bundle), FUSIONLENS_HOST="127.0.0.9")
    with process.serving(tmp_path, env) as served:
        reason = why_not_ready("127.0.0.1", served.port)
        assert reason is not None
        assert reason.startswith(f"Nothing answers at http://127.0.0.1:{served.port}/health/ready")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of a server on 127.0.0.1 that answers so, whatever it is asked, as often as it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while (connection := listener.accept()[0]).recv(65_536):  # whoever says nothing ends it
                connection.sendall(answer)
                connection.close()
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def http(status: str, body: str) -> bytes:
    """An answer in HTTP."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http("200 OK", ""), None),
        (http("503 Service Unavailable", '{"detail": "It is about to stop."}'), "It is about to stop."),
        (http("503 Service Unavailable", "busy"), "{url} answers 503."),
        (http("500 Internal Server Error", "[]"), "{url} answers 500."),
        (http("404 Not Found", "{}"), "{url} answers 404."),
        (b"220 mail.example.org ESMTP\r\n", "What answers at {url} is no HTTP service."),
        (b"", "What answers at {url} is no HTTP service."),
    ],
)
def test_what_is_not_ready_is_said_in_a_sentence(answer: bytes, reason: str | None) -> None:
    with answering(answer) as port:
        url = f"http://127.0.0.1:{port}/health/ready"
        assert why_not_ready("127.0.0.1", port) == (reason and reason.format(url=url))


def test_no_proxy_is_asked_for_what_is_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers are often told of a proxy, which does not reach what is inside them."""
    with answering(http("502 Bad Gateway", "")) as proxy, answering(http("200 OK", "")) as service:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy}")
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        assert why_not_ready("127.0.0.1", service) is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("FUSIONLENS_PORT", value) for value in ("x", "", "-1", "70000", "8000.0", "9" * 5000, "0")),
        *(("PORT", value) for value in ("x", "")),
        *(("FUSIONLENS_HOST", value) for value in ("", " ", "a b", "http://x", "[::1]", "a/b", "ä")),
    ],
)
def test_a_setting_with_which_no_service_is_there_is_told_by_its_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        main(["health"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert said.err.startswith(f"fusionlens health: {variable} is ") and said.err.count("\n") == 1
    if variable != "FUSIONLENS_HOST":  # a port that is given is the one that counts
        with answering(http("200 OK", "")) as port:
            assert main(["health", "--port", str(port)]) == 0


def test_the_probe_reads_a_setting_wherever_the_service_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(http("200 OK", "")) as port, answering(http("500 Oh", "")) as other:
        monkeypatch.setenv("PORT", str(other))
        (tmp_path / "fusionlens_port").write_text(f"{port}\n")
        monkeypatch.setenv("FUSIONLENS_SECRETS_DIR", str(tmp_path))
        assert load_settings().port == port and main(["health"]) == 0
        monkeypatch.setenv("fusionlens_port", str(other))
        assert load_settings().port == other and main(["health"]) == 1
