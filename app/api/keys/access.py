"""Access to routes: the right that each needs, and the API key that a request presents.

The right is an attribute of the endpoint, and `authorize` is a dependency of every route, so a request is judged by the
endpoint that would answer it, whatever its path looks like. It runs before the body of a request is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request

from app.api.keys.keys import Key, Keys, Right
from app.api.keys.limits import Limiter
from app.errors import Forbidden, Unauthorized

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_RIGHT = "required_right"


def requires(right: Right | None) -> Callable[[Endpoint], Endpoint]:
    """A decorator for endpoints: the right that a key needs, or None if everybody may ask.

    An endpoint without it needs the right `predict`.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _RIGHT, right)
        return endpoint

    return mark


class Authenticator:
    """Identifies the API key of a request, if the service has keys. `limiter` enforces their limits."""

    def __init__(self, file: Path | None, limiter: Limiter) -> None:
        self._file, self.limiter = file, limiter
        self._keys = None if file is None else Keys.read(file)

    def read_keys(self) -> None:
        """Read the key file again. Raises KeysError if it cannot be used; the previous keys stay valid then."""
        if self._file is not None:
            self._keys = Keys.read(self._file)

    def identify(self, request: Request) -> tuple[str, Key] | None:
        """The name and entry of the request's key, or None if it needs none. Raises Unauthorized and Forbidden.

        What matches no route needs the right `predict`, so that nobody learns without a key what there is.
        """
        right = getattr(request.scope.get("endpoint"), _RIGHT, "predict")
        if right is None:
            return None
        if self._keys is None:
            if right == "admin":
                raise Forbidden(
                    "This service has no keys, so nobody has this right: send SIGHUP to its process instead."
                )
            return None
        if (owner := self._keys.find(_presented_key(request))) is None:
            raise Unauthorized("This key is not known here: it is wrong, or it was withdrawn.")
        name, key = owner
        if right not in key.rights:
            raise Forbidden(f"The key {name!r} has no right to this: the route requires the right {right!r}.")
        return name, key


@asynccontextmanager
async def access(request: Request) -> AsyncIterator[None]:
    """The context of a request that is let in: its key has the right, and it is within the key's limits.

    Notes the owner in the request's state. Raises Unauthorized, Forbidden and TooManyRequests.
    """
    authenticator: Authenticator = request.app.state.authenticator
    if (owner := authenticator.identify(request)) is None:
        request.state.owner = ""
        yield
        return
    request.state.owner = owner[0]
    async with authenticator.limiter.slot(*owner):
        yield


async def authorize(request: Request) -> AsyncIterator[None]:
    """The dependency of every route. Raises what `access` raises."""
    async with access(request):
        yield


async def authorize_unrouted(request: Request) -> None:
    """For a request that reached no endpoint. Raises what `access` raises."""
    if request.state.owner is None:
        async with access(request):
            return


async def refuse_cross_site(request: Request) -> None:
    """Refuse what a browser sends for a page of another site. Raises Forbidden.

    Browsers say so in `Sec-Fetch-Site` (W3C Fetch Metadata) or, if they are older, in `Origin`.
    """
    site, origin, host = (request.headers.get(name) for name in ("sec-fetch-site", "origin", "host"))
    is_foreign = origin is not None and origin not in (f"http://{host}", f"https://{host}")
    if site not in (None, "none", "same-origin") or is_foreign:
        raise Forbidden("This is not for pages of other sites: send the request from a program, not from a browser.")


def _presented_key(request: Request) -> bytes:
    """Raises Unauthorized if there is none, or more than one."""
    keys = set()
    for name, value in request.scope["headers"]:
        if name == b"x-api-key":
            keys.add(value)
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            keys.add(value[7:].strip())
    if not keys:
        raise Unauthorized("This needs a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
    if len(keys) > 1:
        raise Unauthorized("This request has several keys: send one.")
    return bytes(keys.pop())
