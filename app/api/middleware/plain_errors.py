"""Answers every error with a problem, also those that Starlette answers itself with plain text or nothing."""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import CLIENT_GONE, MEDIA_TYPE, problem

# By status: the name of the problem, and what to do.
_KNOWN = {
    400: ("bad-request", "Leave out the header that this is about, or correct it."),
    416: ("range-not-satisfiable", "Ask for a range within the file, or leave out the header Range."),
}


class PlainErrorMiddleware:
    """ASGI middleware: gives an error that is no problem the body of one, and leaves its other headers as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        text = b""

        async def send_as_problem(message: Message) -> None:
            nonlocal start, text
            if message["type"] == "http.response.start" and _is_plain_error(message):
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                text += message.get("body", b"")
                if not message.get("more_body", False):
                    for one in _as_problem(scope, start, text):
                        await send(one)

        await self._app(scope, receive, send_as_problem)


def _is_plain_error(start: Message) -> bool:
    media_type = MutableHeaders(scope=start).get("content-type", "")
    return start["status"] >= 400 and start["status"] != CLIENT_GONE and media_type != MEDIA_TYPE


def _as_problem(scope: Scope, start: Message, text: bytes) -> tuple[Message, Message]:
    status = start["status"]
    phrase = HTTPStatus(status).phrase
    name, advice = _KNOWN.get(status, (phrase.lower().replace(" ", "-"), "Try something else."))
    said = text.decode(errors="replace").strip(". \n") or phrase
    body = json.dumps(problem(status, name, f"{said}. {advice}").model_dump(), ensure_ascii=False).encode()
    headers = MutableHeaders(scope=start)
    headers["content-type"], headers["content-length"] = MEDIA_TYPE, str(len(body))
    scope["state"]["problem"] = scope["state"]["problem"] or name  # for the log and the metrics
    return start, {"type": "http.response.body", "body": body}
