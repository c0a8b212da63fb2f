"""The connection to the service: what is checked before anything is sent, and how much of an answer is read."""

from __future__ import annotations

from typing import TypeVar
from urllib.request import getproxies

import httpx

from fusionlens_client.errors import InvalidInput, UnexpectedAnswer

H = TypeVar("H", httpx.Client, httpx.AsyncClient)
MAX_CONNECT_S = 10.0
MAX_PORT = 65535
MAX_SECONDS = 1e6  # systems cannot wait much longer
MAX_ANSWER_BYTES = 64 * 1024 * 1024
USER_AGENT = "fusionlens-client"
_OF_THE_BODY = (b"content-encoding", b"content-length", b"transfer-encoding")  # headers on how it was sent


def checked_url(url: str) -> str:
    """The address of the service, to which paths are added. Raises InvalidInput if it is not one."""
    if not isinstance(url, str):
        raise InvalidInput(f"A {type(url).__name__} is no address: write it like http://localhost:8000.")
    if "://" not in url:
        raise InvalidInput(f"The address {url!r} has no scheme: write it like http://localhost:8000.")
    try:
        parsed = httpx.URL(url)
        _check_place(parsed)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidInput(f"The address is not one ({error}): write it like http://localhost:8000.") from error
    if parsed.scheme not in ("http", "https"):
        raise InvalidInput(f"The address {url!r} is not one of HTTP: write it like http://localhost:8000.")
    if parsed.userinfo:
        raise InvalidInput("The address holds a name or a password: leave them out, and give the key as key=….")
    if parsed.query or parsed.fragment:
        raise InvalidInput(f"The address {url!r} has a query or a fragment: leave out what follows the path.")
    return url


def http_client(kind: type[H], url: str, key: str | None, timeout_s: float) -> H:
    """A client of httpx for the service at this address. Raises InvalidInput."""
    limit_s = checked_seconds("timeout_s", timeout_s, least=0.001)
    address, headers = checked_url(url), _headers(key)
    timeout = httpx.Timeout(limit_s, connect=min(limit_s, MAX_CONNECT_S))
    try:
        _check_proxies()
        return kind(base_url=address, headers=headers, timeout=timeout)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise InvalidInput(
            f"A proxy or certificates that the environment names cannot be used ({str(error).rstrip('.')}): look at "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR."
        ) from error


def checked_seconds(name: str, seconds: float, least: float = 0.0) -> float:
    """The number of seconds. Raises InvalidInput if it is no number from `least` to `MAX_SECONDS`."""
    if not isinstance(seconds, int | float) or not least <= seconds <= MAX_SECONDS:
        raise InvalidInput(f"{name} cannot be used: give a number of seconds from {least:g} to {MAX_SECONDS:,.0f}.")
    return float(seconds)


class Received:
    """An answer while it arrives. It is held in memory, so more than `MAX_ANSWER_BYTES` of it are not read."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._content = response, bytearray()

    def add(self, chunk: bytes) -> None:
        """Add what has arrived, decompressed. Raises UnexpectedAnswer where it is too much."""
        self._content += chunk
        if len(self._content) > MAX_ANSWER_BYTES:
            raise UnexpectedAnswer(
                f"{self._response.url} answers with more than {MAX_ANSWER_BYTES >> 20} MiB: is this the address of a "
                "FusionLens service?"
            )

    def whole(self) -> httpx.Response:
        """The answer with its content, once all of it has arrived."""
        headers = [header for header in self._response.headers.raw if header[0].lower() not in _OF_THE_BODY]
        return httpx.Response(
            self._response.status_code, headers=headers, content=bytes(self._content), request=self._response.request
        )


def _check_place(url: httpx.URL) -> None:
    """Raises ValueError for a host or a port that would fail only later, and with other errors than those of httpx."""
    if not url.host:
        raise ValueError("it has no host")
    url.raw_host.decode().encode("idna")
    if url.port is not None and url.port > MAX_PORT:
        raise ValueError(f"a port is at most {MAX_PORT}")


def _check_proxies() -> None:
    """Raises ValueError and httpx.InvalidURL for one that httpx takes from the environment, and cannot use."""
    proxies = getproxies()
    for proxy in (proxies[scheme] for scheme in ("http", "https", "all") if proxies.get(scheme)):
        _check_place(httpx.URL(proxy if "://" in proxy else f"http://{proxy}"))


def _headers(key: str | None) -> dict[str, str]:
    """The headers of every request. Raises InvalidInput for a key that no header can hold; no sentence shows it."""
    if key is None:
        return {"User-Agent": USER_AGENT}
    if not isinstance(key, str) or not key:
        raise InvalidInput("The key is empty: leave it out if the service wants none.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidInput(
            "The key has a blank, a line break or a character beyond ASCII: if it was read from a file, strip it."
        )
    return {"User-Agent": USER_AGENT, "Authorization": f"Bearer {key}"}
