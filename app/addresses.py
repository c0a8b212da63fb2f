"""Network addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"https?://[^/?#@\s]+/?", re.IGNORECASE)
# What a service can listen on: an address or a name. An empty text would be every address of the machine.
LISTENING_HOST = r"^[A-Za-z0-9_%:-]{1,63}(\.[A-Za-z0-9_%:-]{1,63})*$"
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


def http_url(text: str) -> str:
    """An address of the web: a host, perhaps with a port, a path and credentials. Raises ValueError for any other text.

    The error quotes nothing of it, because it may have a password.
    """
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or ""), parts.port
        if "[" in parts.netloc:
            host = f"[{ipaddress.IPv6Address(host)}]"
        elif re.fullmatch(r"[0-9.]+", host):
            host = str(ipaddress.IPv4Address(host))
        is_whole = not parts.fragment and not parts.netloc.endswith(":") and port != 0
        host = host.encode("idna").decode()
    except ValueError:  # a port that is no number, brackets without an address, a name that no host can have
        host, is_whole = "", False
    if not (re.fullmatch(r"https?://\S+", text) and text.isprintable() and is_whole and _HOST.fullmatch(host)):
        raise ValueError(
            "it is no web address: write scheme, host, port and path, such as http://collector:4318/v1/traces"
        )
    return text


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
