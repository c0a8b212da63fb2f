"""The OpenAPI document: that of FastAPI, with `application/problem+json` as the media type of errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.api.problems import MEDIA_TYPE


class DocumentedAPI(FastAPI):
    """An application whose OpenAPI document gives errors their media type, which FastAPI cannot express."""

    def openapi(self) -> dict[str, Any]:
        """The document. It is built at the first call."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if status == "default" or status >= "400":
                        (content,) = response["content"].values()
                        response["content"] = {MEDIA_TYPE: content}
        return document
