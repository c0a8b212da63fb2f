"""Checks where the service is, the key for it and the time limits, before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import httpx

from fusionlens_client.errors import InvalidInput

MAX_CONNECT_S = 10.0
USER_AGENT = "fusionlens-client"


def checked_url(url: str) -> str:
    """The address of the service, to which paths are added. Raises InvalidInput if it is not one."""
    if not isinstance(url, str):
        raise InvalidInput(f"A {type(url).__name__} is no address: write it like http://localhost:8000.")
    if "://" not in url:
        raise InvalidInput(f"The address {url!r} has no scheme: write it like http://localhost:8000.")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"The address {url!r} is not one: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"The address {url!r} is not one of HTTP: write it like http://localhost:8000.")
    if parsed.userinfo:
        raise InvalidInput("The address holds a name or a password: leave them out, and give the key as key=….")
    if parsed.query or parsed.fragment:
        raise InvalidInput(f"The address {url!r} has a query or a fragment: leave out what follows the path.")
    return url


def http_options(url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients. Raises InvalidInput."""
    limit_s = checked_seconds("timeout_s", timeout_s, least=0.001)
    return {
        "base_url": checked_url(url),
        "headers": _headers(key),
        "timeout": httpx.Timeout(limit_s, connect=min(limit_s, MAX_CONNECT_S)),
    }


def checked_seconds(name: str, seconds: float, least: float = 0.0) -> float:
    """The number of seconds. Raises InvalidInput if it is not a finite number, or below `least`."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < least:
        raise InvalidInput(f"{name} is {seconds!r}: give a number of seconds from {least:g} on.")
    return float(seconds)


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
