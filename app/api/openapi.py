"""The OpenAPI document: FastAPI's own, with every error as the `application/problem+json` that it is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.api.problems import MEDIA_TYPE


class DocumentedAPI(FastAPI):
    """An application whose document gives errors their own media type, which FastAPI has no word for."""

    def openapi(self) -> dict[str, Any]:
        """The document, made at the first call."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if status == "default" or status >= "400":
                        (content,) = response["content"].values()
                        response["content"] = {MEDIA_TYPE: content}
        return document
