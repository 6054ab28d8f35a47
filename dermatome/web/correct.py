"""The page on which tissue masks are corrected: a plain page with its own API, beside Gradio's pages.

Its requests pass the guards of the app, like Gradio's: only the app's own pages may send them, and a body is JSON of at
most :data:`dermatome.web.payloads.MAX_JSON_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import TissueClass
from dermatome.errors import BadAnnotation, DermatomeError, MissingInput
from dermatome.geometry import Box, Size
from dermatome.reports.html import encoded
from dermatome.skin.tiles.corrections import (
    LARGEST_SIDE_PX,
    LEAST_SIDE_PX,
    Conflict,
    decode_runs,
    encode_runs,
    open_region,
    region_box,
    save_correction,
    saved_corrections,
)
from dermatome.slides.slide import Slide
from dermatome.storage.files import folders_in
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record
from dermatome.web.atlas.slides import OpenSlides
from dermatome.web.viewer import VIEW_PX

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = "/correct"
SAVE = f"{PAGE}/save"
TITLE = "Correct masks"
MAX_LISTED = 200
_FILES = {"": "correct.html", "/correct.js": "correct.js", "/correct.css": "correct.css"}
ADDRESSES = frozenset(f"{PAGE}{end}" for end in (*_FILES, "/slides", "/slide", "/overview", "/region", "/image"))


def add_correction_page(app: FastAPI, root: DataRoot) -> None:
    """Adds the page and its API to the app."""
    from starlette import responses
    from starlette.concurrency import run_in_threadpool

    slides = OpenSlides(root)

    def answer(make: Callable[[Mapping[str, Any]], Any], sent: Mapping[str, Any]) -> Response:
        try:
            made = make(sent)
        except DermatomeError as error:
            status = 409 if isinstance(error, Conflict) else 404 if isinstance(error, MissingInput) else 400
            return responses.JSONResponse({"detail": str(error)}, status)
        is_picture = isinstance(made, bytes)
        return responses.Response(made, media_type="image/jpeg") if is_picture else responses.JSONResponse(made)

    def get(place: str, make: Callable[[Mapping[str, Any]], Any]) -> None:
        app.add_route(f"{PAGE}/{place}", lambda request: answer(make, request.query_params))

    async def save(request: Request) -> Response:
        # The guard has already read the body and checked that it is JSON.
        return await run_in_threadpool(
            answer, lambda sent: _save(root, _slide(slides, sent), sent), await request.json()
        )

    for place, name in _FILES.items():
        app.add_route(f"{PAGE}{place}", partial(_file, name))
    get("slides", lambda sent: _list(root, str(sent.get("q", ""))))
    get("slide", lambda sent: _about(root, _slide(slides, sent)))
    get("overview", lambda sent: encoded(_slide(slides, sent).overview(VIEW_PX), "jpeg", quality=88, subsampling=0))
    get("region", lambda sent: _region(root, _slide(slides, sent), sent))
    get("image", lambda sent: _image(_slide(slides, sent), sent))
    app.add_route(SAVE, save, methods=["POST"])


async def _file(name: str, request: Request) -> Response:
    from starlette.responses import FileResponse

    return FileResponse(Path(__file__).parent / name)


def _list(root: DataRoot, part: str) -> dict[str, Any]:
    """The first slides whose name contains ``part``."""
    names = [name for name in folders_in(root.folder("slide_images")) if part.casefold() in name.casefold()]
    return {"slides": names[:MAX_LISTED], "all": len(names)}


def _about(root: DataRoot, slide: Slide) -> dict[str, Any]:
    return {
        "slide": slide.name,
        "width": slide.size.width_px,
        "height": slide.size.height_px,
        "mpp": slide.mpp,
        "predicted": read_record(root.record("epidermis_masks", slide.name)) is not None,
        "corrections": [asdict(saved) for saved in saved_corrections(root, slide.name)],
        "classes": [{"label": tissue.label, "colour": tissue.colour} for tissue in TissueClass],
        "sides": [LEAST_SIDE_PX, LARGEST_SIDE_PX],
    }


def _region(root: DataRoot, slide: Slide, sent: Mapping[str, Any]) -> dict[str, Any]:
    box = _box(slide.size, sent)
    found = open_region(root, slide, box)
    return {
        "slide": slide.name,
        "left": box.left_px,
        "top": box.top_px,
        "width": box.size.width_px,
        "height": box.size.height_px,
        "labels": encode_runs(found.labels),
        "known": encode_runs(found.known),
        "predicted": encode_runs(found.predicted),
        "version": found.version,
        "earlier": found.earlier and asdict(found.earlier),
    }


def _image(slide: Slide, sent: Mapping[str, Any]) -> bytes:
    box = _box(slide.size, sent)
    return encoded(slide.region(box, box.size), "jpeg", quality=95, subsampling=0)


def _save(root: DataRoot, slide: Slide, sent: Mapping[str, Any]) -> dict[str, Any]:
    box = _box(slide.size, sent)
    labels, author, version = (sent.get(key) for key in ("labels", "author", "version"))
    if not isinstance(labels, list) or not isinstance(author, str) or not isinstance(version, str):
        raise BadAnnotation("The mask did not arrive complete: open the region again.")
    saved, version = save_correction(
        root, slide, box, decode_runs(labels, box.size), author=author, version=version,
        confirmed=sent.get("confirmed") is True,
    )  # fmt: skip
    return {"version": version, "earlier": asdict(saved)}


def _slide(slides: OpenSlides, sent: Mapping[str, Any]) -> Slide:
    name = sent.get("slide")
    if not isinstance(name, str) or not name:
        raise MissingInput("No slide is chosen: choose one, and open it.")
    return slides.open(name).slide


def _box(size: Size, sent: Mapping[str, Any]) -> Box:
    try:
        left, top, width, height = (int(str(sent[key])) for key in ("left", "top", "width", "height"))
    except (KeyError, ValueError) as error:
        raise BadAnnotation("A region is given by left, top, width and height as whole px.") from error
    return region_box(size, left, top, min(width, size.width_px), min(height, size.height_px))
