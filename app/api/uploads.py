"""Reads one picture from a request body. The bytes are counted while they arrive, and never written to disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.errors import (
    EmptyUpload,
    MalformedUpload,
    MissingField,
    Overloaded,
    UnsupportedMediaType,
    UploadTooLarge,
    UploadTooSlow,
)

FIELD = "file"
MAX_CONTENT_TYPE_CHARS = 1000
_PICTURE = {"type": "string", "format": "binary"}
OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One picture: JPEG, PNG, WebP, GIF, TIFF or BMP.",
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _PICTURE}}},
            "image/*": {"schema": _PICTURE},
        },
    }
}


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, which also records whether the body has a part, and whether it ended properly."""

    has_part = complete = False

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self.has_part = True

    def on_end(self) -> None:
        self.complete = True


class UploadMemory:
    """The memory budget for all request bodies that are being received.

    All bodies of one user together have at most half of it. A single one may have more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes: Counter[str] = Counter()  # by user

    @property
    def used_bytes(self) -> int:
        """The memory of all bodies that are being received."""
        return self._used_bytes.total()

    @contextmanager
    def reservation(self, user: str) -> Iterator[Callable[[int], None]]:
        """A function that reserves memory for the chunks of one body, by their size in bytes.

        The function raises Overloaded if the budget is used up. The memory is released at the end of the context.
        """
        reserved = 0

        def reserve(nbytes: int) -> None:
            nonlocal reserved
            others = self._used_bytes[user] - reserved  # of the same user
            too_much = others > 0 and others + reserved + nbytes > self._max_bytes / 2
            if too_much or self.used_bytes + nbytes > self._max_bytes:
                raise Overloaded(1)
            reserved += nbytes
            self._used_bytes[user] += nbytes

        try:
            yield reserve
        finally:
            self._used_bytes[user] -= reserved
            self._used_bytes += Counter()  # forgets users who have nothing


async def read_picture(request: Request, max_bytes: int, reserve: Callable[[int], None], timeout_s: float) -> bytes:
    """The bytes of the picture in the multipart field `file`, or in a raw `image/*` body.

    `reserve` is called with the size of each chunk. Raises UploadTooLarge as soon as the limit is passed, UploadTooSlow
    after `timeout_s`, EmptyUpload, MalformedUpload, MissingField, UnsupportedMediaType, and what `reserve` raises.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_picture(request, _limited(request, max_bytes, reserve), max_bytes)
    except TimeoutError as error:
        raise UploadTooSlow(f"The body did not arrive within {timeout_s:g} s: send it again.") from error


async def _read_picture(request: Request, stream: AsyncGenerator[bytes, None], max_bytes: int) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith("image/"):
        picture = b"".join([chunk async for chunk in stream])
    elif media_type == "multipart/form-data":
        picture = await _from_form(request, stream, max_bytes)
    else:
        raise UnsupportedMediaType(
            f"Send the picture as multipart/form-data in a field named {FIELD!r}, "
            f"or as the body with an image/* content type; this request has {media_type or 'no content type'}."
        )
    if not picture:
        raise EmptyUpload("The upload is empty: send the bytes of a picture.")
    return picture


async def _from_form(request: Request, stream: AsyncGenerator[bytes, None], max_bytes: int) -> bytes:
    _check_form_type(request.headers["content-type"])
    parser = _InMemoryParser(request.headers, stream, max_files=1, max_fields=20)
    parser.spool_max_size = max_bytes + 1  # more than the limit, so nothing is spooled to disk
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # the latter comes through Starlette in some cases
        reason = error.message if isinstance(error, MultiPartException) else f"{error}."
        raise MalformedUpload(f"The multipart body is invalid: {reason} Send one file.") from error
    if parser.has_part and not parser.complete:
        raise MalformedUpload("The multipart body ends before its closing boundary: send it again.")
    if not parser.complete:
        raise EmptyUpload(f"The form is empty: send one picture in a field named {FIELD!r}.")
    if not isinstance(part := form.get(FIELD), UploadFile):
        raise MissingField(f"The form has no file in a field named {FIELD!r}: put the picture there.")
    return await part.read()


def _check_form_type(content_type: str) -> None:
    """Raises MalformedUpload for a charset other than UTF-8: with some of Python's, decoding a name takes minutes."""
    if len(content_type) > MAX_CONTENT_TYPE_CHARS:
        raise MalformedUpload(f"The Content-Type has more than {MAX_CONTENT_TYPE_CHARS} characters: shorten it.")
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise MalformedUpload("The form has a charset other than UTF-8: leave the charset out.")


async def _limited(request: Request, max_bytes: int, reserve: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    too_large = UploadTooLarge(f"The body is larger than {max_bytes:,} bytes: send a smaller picture.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large
        reserve(len(chunk))
        yield chunk
