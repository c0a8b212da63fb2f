"""The HTML pages: the application at /, and the list of routes at /docs."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from app.api.keys.access import requires
from app.files import WEB

# The page loads resources from this host alone, and cannot be framed by other sites.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
DOCS_HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": f"default-src 'none'; script-src 'self' {_CDN}; style-src {_CDN} 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@requires(None)
class PageFiles(StaticFiles):
    """The files of the page. Browsers revalidate each of them every time, so that they never mix two versions."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """See StaticFiles."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


@requires(None)
async def page() -> FileResponse:
    """The page of the application."""
    return FileResponse(WEB / "index.html", headers=PAGE_HEADERS)


@requires(None)
async def docs() -> FileResponse:
    """The list of routes. Its script comes from another host, and the page pins its digest."""
    return FileResponse(WEB / "docs.html", headers=DOCS_HEADERS)
