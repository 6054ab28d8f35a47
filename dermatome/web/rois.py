"""The page on which ROIs for `training_tiles` are marked: a square that is moved, resized and divided into tiles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.reports.html import picture_uri
from dermatome.skin.tiles.rois import Roi, read_rois, rois_json, rois_of
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.slide import DECLARED_MPP, Slide, read_slide
from dermatome.storage.files import folders_in, names_in, safe_id, sha256_bytes, write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.web.context import WebContext, errors_shown
from dermatome.web.uploads import read_upload
from dermatome.web.viewer import VIEW_PX, status_html, web_template

TITLE = "Training ROIs"
ROI_FILE = "rois.json"
QUPATH_FILE = "rois.geojson"
MAX_ROIS = 1000
_MAX_CHARACTERS = 1_000_000
_SCRIPT = Path(__file__).parent / "roi_editor.js"


class OpenedSlide(NamedTuple):
    """A slide on which ROIs are drawn, and the ROIs drawn so far.

    Attributes:
        slide: The slide; ROIs are in its pixels.
        rois: Its ROIs.
        annotated: Whether it is an annotated slide of the data root; otherwise it is an upload.
        version: Version of its `rois.json`, see :func:`save_annotated`.
    """

    slide: Slide
    rois: Sequence[Roi] = ()
    annotated: bool = False
    version: str = ""


def annotated_slides(root: DataRoot) -> list[str]:
    """Names of the annotated slides of the data root that have an H&E image."""
    return [name for name in sorted(folders_in(root.annotations)) if _images(root.annotations / name)]


def open_annotated(root: DataRoot, name: str) -> OpenedSlide:
    """Opens an annotated slide's H&E image and its ROIs, including those of a GeoJSON file from QuPath.

    Raises:
        MissingInput: There is no such slide.
        BadImage: The image cannot be read.
        BadAnnotation: The ROI file cannot be read.
    """
    folder = root.annotations / safe_id(name, "The annotated slide")
    images = _images(folder)
    if not images:
        raise MissingInput(f"There is no annotated slide {name!r} with a he.png (or .jpg, .tif): choose another.")
    slide = read_slide(folder / images[0], name=name)
    rois: list[Roi] = []
    # Read first, so that a change during reading is noticed when ROIs are saved.
    version = _version(folder)
    for file in sorted({ROI_FILE, QUPATH_FILE} & set(names_in(folder))):
        rois += read_rois(folder / file)
    return OpenedSlide(slide, rois, annotated=True, version=version)


def editor_html(opened: OpenedSlide) -> str:
    """HTML of the slide with a square to move, resize and divide; its script is ``roi_editor.js``."""
    slide, size = opened.slide, opened.slide.size
    side = max(1, min(size.height_px, size.width_px) // 3)
    left, top = (size.width_px - side) // 2, (size.height_px - side) // 2
    numbers = (
        ("Left, px", "left", left, 0, size.width_px - 1),
        ("Top, px", "top", top, 0, size.height_px - 1),
        ("Side, px", "side", side, 1, min(size.height_px, size.width_px)),
        ("Divide n × n", "divide", 2, 1, 32),
    )
    picture = picture_uri(slide.overview(VIEW_PX), "jpeg", quality=88)
    return web_template(
        "rois", name=slide.name, size=size, annotated=opened.annotated, numbers=numbers, picture=picture,
        rois=json.loads(rois_json(opened.rois))["rois"],
    )  # fmt: skip


def rois_from_editor(text: str, root: DataRoot) -> tuple[str, bool, list[Roi]]:
    """Reads and checks the ROIs that the editor sent.

    Returns:
        Name of the slide, whether it is an annotated slide of the data root, and its ROIs.

    Raises:
        BadAnnotation: The text is not in the editor's format, or an ROI is not inside the slide.
        MissingInput: No slide is open, or there is no ROI.
        StorageFailed: A name is not usable as a file name.
    """
    if not text:
        raise MissingInput("No slide is open: choose one, or upload one, and open it.")
    try:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError("it is too long")
        sent = json.loads(text)
        name, annotated = safe_id(str(sent["name"]), "The slide"), bool(sent["annotated"])
        size = Size(int(sent["height"]), int(sent["width"]))
        rois = rois_of({"rois": list(sent["rois"])}, Path(ROI_FILE))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadAnnotation(f"The ROIs did not arrive complete ({error!r}): open the slide again.") from error
    if not rois:
        raise MissingInput("There is no ROI yet: place the square and press Add ROI.")
    if len(rois) > MAX_ROIS:
        raise BadAnnotation(f"There are {len(rois)} ROIs and at most {MAX_ROIS} are kept: remove some.")
    if annotated:
        size = open_annotated(root, name).slide.size
    for roi in rois:
        safe_id(roi.name, "The ROI")
        if not roi.box.fits(size) or not roi.divisible:
            raise BadAnnotation(f"The ROI {roi.name!r} is not inside {name}, or too small to divide: place it again.")
    return name, annotated, rois


def save_annotated(root: DataRoot, name: str, rois: list[Roi], version: str) -> tuple[Path, str]:
    """Saves all ROIs of an annotated slide to the file that `training_tiles` reads.

    ``version`` is that of the ROIs before editing: sha256 of their file, or empty if there was none.

    Returns:
        Path of the file, and its new version.

    Raises:
        BadAnnotation: Somebody else has saved ROIs in the meantime, which would be lost; or the slide already has ROIs
            from QuPath, and a slide has only one ROI file.
    """
    folder = root.annotations / safe_id(name, "The annotated slide")
    if QUPATH_FILE in names_in(folder):
        raise BadAnnotation(
            f"{name} has a {QUPATH_FILE} from QuPath, and a slide has one ROI file only: take that away, then save "
            "again; the file to download is complete."
        )
    if _version(folder) != version:
        raise BadAnnotation(
            f"The ROIs of {name} were changed by somebody else since you opened it, and yours are not saved, as they "
            "would erase those: download yours, press Open, and mark again what is missing."
        )
    data = rois_json(rois)
    return write_atomic(folder / ROI_FILE, data), sha256_bytes(data)


def build_roi_page(context: WebContext) -> None:
    """Adds the components and events of the page to the open Blocks."""
    import gradio as gr

    from dermatome.web.page import ONE_AT_A_TIME

    @errors_shown(("", ""))
    def open_chosen(name: str | None, path: str | None) -> Iterator[Any]:
        if path:
            opened = OpenedSlide(read_upload(Path(path), DECLARED_MPP, context.limits))
        else:
            opened = open_annotated(context.root, name or "")
        known = f"; ROIs: {len(opened.rois)}" if opened.rois else ""
        yield status_html(f"{opened.slide.name} is open{known}."), editor_html(opened), opened.version

    @errors_shown((gr.update(value=None, visible=False), gr.skip()))
    def save(sent: str, version: str) -> Iterator[Any]:
        name, annotated, rois = rois_from_editor(sent, context.root)
        with TemporaryDirectory(dir=context.scratch) as folder:
            file = str(write_atomic(Path(folder) / ROI_FILE, rois_json(rois)))
            text, bad = f"download {ROI_FILE} and put it beside he.png of its annotated slide", False
            if annotated:
                try:
                    path, version = save_annotated(context.root, name, rois, version)
                    text = f"saved as {path}; materialize training_tiles"
                except BadAnnotation as error:
                    text, bad = str(error), True
            status = status_html(text if bad else f"{name}, ROIs: {len(rois)}; {text}.", bad=bad)
            yield status, gr.update(value=file, visible=True), version

    gr.Markdown(
        "# Training ROIs\nMark the squares that `training_tiles` cuts out of an annotated slide, each divided into "
        "n × n tiles."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            slide = gr.Dropdown(
                [],
                label="Annotated slide of the data root",
                info="Folders of annotations/ that have a he.png (.jpg, .tif).",
            )
            upload = gr.File(label="or upload one (has priority)", file_types=list(SUFFIXES), height=160)
            opening = gr.Button("Open", variant="primary", elem_id="dm-open")
            saving = gr.Button("Save ROIs", elem_id="dm-save")
            status = gr.HTML(status_html("Choose a slide, then press Open."), elem_id="dm-roi-status")
            download = gr.File(label="Download", interactive=False, height=110, visible=False, elem_id="dm-roi-file")
        with gr.Column(scale=3, min_width=320):
            editor = gr.HTML(elem_id="dm-editor", js_on_load=_SCRIPT.read_text(encoding="utf-8"))
    # The browser fills this in from the editor when the button is pressed.
    sent = gr.Textbox(visible=False)
    # The browser keeps the version of the edited ROIs, as the server has no state.
    version = gr.Textbox(visible=False)

    def list_slides() -> Any:
        names = annotated_slides(context.root)
        return gr.Dropdown(names, value=names[0] if names else None)

    opening.click(
        open_chosen, [slide, upload], [status, editor, version],
        api_name="open_for_rois", show_progress_on=[status], **ONE_AT_A_TIME,
    )  # fmt: skip
    saving.click(
        save, [sent, version], [status, download, version],
        js="(sent, version) => [window.dermatomeRois(), version]", api_name="save_rois",
        show_progress_on=[status], **ONE_AT_A_TIME,
    )  # fmt: skip
    gr.on(fn=list_slides, outputs=slide, api_visibility="private")


def _version(folder: Path) -> str:
    try:
        return sha256_bytes((folder / ROI_FILE).read_bytes())
    except FileNotFoundError:
        return ""


def _images(folder: Path) -> list[str]:
    return sorted(name for name in names_in(folder) if name in {f"he{suffix}" for suffix in SUFFIXES})
