"""Reads one picture from a request body, with the fields of a form beside it.

The bytes are counted while they arrive, and never written to disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.errors import (
    BadParameter,
    EmptyUpload,
    MalformedUpload,
    MissingField,
    Overloaded,
    UnsupportedMediaType,
    UploadTooLarge,
    UploadTooSlow,
)
from app.pictures.formats import SNIFFED_BYTES, format_of

FIELD = "file"
MAX_CONTENT_TYPE_CHARS = 1000
_PICTURE = {"type": "string", "format": "binary"}
# What programs send that do not know a file's type, such as S3, or that were not told it, such as curl --data-binary.
UNTOLD_TYPES = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class ReceivedUpload:
    """The bytes of a picture, and the fields of the form beside it, by name."""

    picture: bytes
    fields: Mapping[str, str] = field(default_factory=dict)


def openapi_body(parameters: type[BaseModel] | None = None) -> dict[str, Any]:
    """What the OpenAPI document says of the body: a picture and, in a form, the parameters of a model beside it."""
    fields = {} if parameters is None else parameters.model_json_schema()["properties"]
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: _PICTURE} | {name: _without_null(schema) for name, schema in fields.items()},
        "additionalProperties": False,
    }
    beside = "" if parameters is None else " In a form, fields beside it may be parameters instead of the query's."
    return {
        "requestBody": {
            "required": True,
            "description": f"One picture: JPEG, PNG, WebP, GIF, TIFF or BMP.{beside}",
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": {"schema": _PICTURE},
                "application/octet-stream": {"schema": _PICTURE},
            },
        }
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be left out. None, its default, is nothing that a form could hold."""
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "title") and value is not None}
    (of_value,) = [one for one in schema.get("anyOf", [{}]) if one.get("type") != "null"]
    return {**kept, **of_value}


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


async def read_upload(
    request: Request, max_bytes: int, reserve: Callable[[int], None], timeout_s: float
) -> ReceivedUpload:
    """The picture in the multipart field `file`, with the other fields, or in a body that is a picture.

    Such a body has an `image/*` content type, or none that says anything and the first bytes of a picture. `reserve` is
    called with the size of each chunk. Raises UploadTooLarge as soon as the limit is passed, UploadTooSlow after
    `timeout_s`, EmptyUpload, MalformedUpload, MissingField, BadParameter, UnsupportedMediaType, and what `reserve`
    raises.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_upload(request, _limited(request, max_bytes, reserve), max_bytes)
    except TimeoutError as error:
        raise UploadTooSlow(f"The body did not arrive within {timeout_s:g} s: send it again.") from error


async def _read_upload(request: Request, stream: AsyncGenerator[bytes, None], max_bytes: int) -> ReceivedUpload:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        upload = await _from_form(request, stream, max_bytes)
    elif media_type.startswith("image/"):
        upload = ReceivedUpload(b"".join([chunk async for chunk in stream]))
    elif media_type in UNTOLD_TYPES:
        upload = ReceivedUpload(await _if_picture(stream, media_type))
    else:
        raise _not_sent_as_picture(f"this request has {media_type}")
    if not upload.picture:
        raise EmptyUpload("The upload is empty: send the bytes of a picture.")
    return upload


async def _if_picture(stream: AsyncGenerator[bytes, None], media_type: str) -> bytes:
    """The body, if its first bytes are those of a picture. Raises UnsupportedMediaType as soon as they are not."""
    body, start = [], b""
    async for chunk in stream:
        body.append(chunk)
        if len(start) < SNIFFED_BYTES:
            start += chunk[: SNIFFED_BYTES - len(start)]
            if len(start) == SNIFFED_BYTES and format_of(start) is None:
                break
    if start and format_of(start) is None:
        raise _not_sent_as_picture(
            f"this request has {media_type or 'no content type'}, and its body does not begin like a picture"
        )
    return b"".join(body)


def _not_sent_as_picture(found: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"Send the picture as multipart/form-data in a field named {FIELD!r}, or as the body with an image/* content "
        f"type; {found}."
    )


async def _from_form(request: Request, stream: AsyncGenerator[bytes, None], max_bytes: int) -> ReceivedUpload:
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
    for name, count in Counter(name for name, _ in form.multi_items()).items():
        if count > 1:
            raise BadParameter(f"The field {name!r} is in the form {count} times: send it once.")
    if not isinstance(part := form.get(FIELD), UploadFile):
        raise MissingField(f"The form has no file in a field named {FIELD!r}: put the picture there.")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return ReceivedUpload(await part.read(), fields)


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
