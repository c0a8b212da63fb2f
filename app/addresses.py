"""Network addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"https?://[^/?#@\s]+/?", re.IGNORECASE)
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address is a loopback one, which only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(host: str) -> str:
    """The network that one client has for itself: an IPv4 address, or the first 64 bits of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def web_origins(entries: Sequence[object]) -> tuple[str, ...]:
    """The origins of a list, as browsers write them. Raises ValueError for what is no origin."""
    return tuple(web_origin(entry) for entry in entries)


def web_origin(entry: object) -> str:
    """An origin as browsers send it: in lower case, without a default port, without a slash at its end.

    `*`, which stands for all origins, stays as it is. Raises ValueError for what is no origin.
    """
    text = entry.strip() if isinstance(entry, str) else ""
    if text == "*":
        return text
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or ""), parts.port
        host = f"[{ipaddress.IPv6Address(host)}]" if "[" in text else host.encode("idna").decode()
    except ValueError:  # a port that is no number, brackets without an address, a name that no host can have
        host, port = "", None
    if not _ORIGIN.fullmatch(text) or not _HOST.fullmatch(host):
        raise ValueError(
            f"{entry!r} is no web origin: write scheme, host and port, such as https://example.org or "
            "http://localhost:3000"
        )
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _DEFAULT_PORTS[parts.scheme]) else "")
