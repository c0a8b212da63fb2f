"""Write docs/openapi.json, the committed description of the API: python -m scripts.openapi."""

from __future__ import annotations

import json
from pathlib import Path

from app.api.application import create_app
from app.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.json"


def openapi_document() -> str:
    """The document of the application as it is, in a stable order. Needs no bundle."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(openapi_document(), encoding="utf-8")
