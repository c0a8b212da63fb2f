"""Says when the connection ends after an answer, so that clients and proxies send nothing more on it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.lifecycle import Lifecycle


class ConnectionMiddleware:
    """ASGI middleware: adds `Connection: close` while the service drains, and to an answer before the body's end."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app, self._lifecycle = app, lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_whole = not _has_body(scope)

        async def receive_counted() -> Message:
            nonlocal is_whole
            message = await receive()
            is_whole |= message["type"] == "http.request" and not message.get("more_body", False)
            return message

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and (self._lifecycle.draining or not is_whole):
                headers = message.setdefault("headers", [])
                if (b"connection", b"close") not in headers:
                    headers.append((b"connection", b"close"))
            await send(message)

        await self._app(scope, receive_counted, send_with_header)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
