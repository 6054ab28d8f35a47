"""Serves the figures and reports of a data root, in Dagster's web server and in the web app."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from dermatome.skin.atlas.search import SCRIPT_SOURCE


class Results(StaticFiles):
    """Serves the figures and HTML reports of the data root, and no other file; it follows no symbolic link.

    A report may run no script except the atlas search, and load nothing except the images embedded in it.
    """

    async def get_response(self, path: str, scope: MutableMapping[str, Any]) -> Response:
        """The file at a path, or 404."""
        if Path(path).suffix not in (".png", ".webp", ".html") or any(
            part.startswith(".") for part in Path(path).parts
        ):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        # Without "allow-same-origin" the page has no origin, so even that script cannot access the server.
        response.headers["Content-Security-Policy"] = (
            "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src {SCRIPT_SOURCE}"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
