"""Authentication and limits of API keys, checked before the body of a request is read."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.keys.keys import Key, Keys, Right
from app.api.keys.limits import Limiter
from app.api.middleware.admission import path_of
from app.errors import Forbidden, FusionLensError, Unauthorized

PUBLIC_PATHS = {"/", "/health/live", "/health/ready", "/docs", "/openapi.json"}
REQUIRED_RIGHT: dict[str, Right] = {"/metrics": "metrics", "/admin/reload": "admin"}


class Authenticator:
    """Identifies the API key of a request, if the service has keys. `limiter` enforces their limits."""

    def __init__(self, file: Path | None, limiter: Limiter) -> None:
        self._file, self.limiter = file, limiter
        self._keys = None if file is None else Keys.read(file)

    def read_keys(self) -> None:
        """Read the key file again. Raises KeysError if it cannot be used; the previous keys stay valid then."""
        if self._file is not None:
            self._keys = Keys.read(self._file)

    def identify(self, path: str, presented: bytes | None) -> tuple[str, Key] | None:
        """The name and entry of the presented key, or None if no key is needed. Raises Unauthorized and Forbidden."""
        if path in PUBLIC_PATHS or path.startswith("/web/"):
            return None
        right = REQUIRED_RIGHT.get(path, "predict")
        if self._keys is None:
            if right == "admin":
                raise Forbidden(
                    "This service has no keys, so nobody has this right: send SIGHUP to its process instead."
                )
            return None
        if presented is None:
            raise Unauthorized("This needs a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        if (owner := self._keys.find(presented)) is None:
            raise Unauthorized("This key is not known here: it is wrong, or it was withdrawn.")
        name, key = owner
        if right not in key.rights:
            raise Forbidden(f"The key {name!r} has no right to this: the route requires the right {right!r}.")
        return name, key


class AccessMiddleware:
    """ASGI middleware: refuses requests without a valid key, and stores the name of the key as `owner`."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app, self._authenticator = app, authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            owner = self._authenticator.identify(path_of(scope), _presented_key(scope))
            if owner is None:
                await self._app(scope, receive, send)
                return
            scope["state"]["owner"] = owner[0]
            async with self._authenticator.limiter.slot(*owner):
                await self._app(scope, receive, send)
        except FusionLensError as error:  # raised in this middleware: the application answers its own errors itself
            response = problems.response_to(Request(scope), error)
            response.headers["Connection"] = "close"  # the rest of the body is not read
            if isinstance(error, Unauthorized):
                response.headers["WWW-Authenticate"] = 'Bearer realm="fusionlens"'
            await response(scope, receive, send)


def _presented_key(scope: Scope) -> bytes | None:
    presented = None
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            presented = value
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            presented = value[7:].strip()
    return presented
