"""ROIs of annotated slides and of uploads, as the ROI page opens and saves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dermatome.classes import RgbImage
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.skin.tiles.rois import Roi, read_rois, rois_json, rois_of
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.slide import Slide, read_slide
from dermatome.storage.files import folders_in, names_in, safe_id, sha256_bytes, write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.web.viewer import VIEW_PX, jpeg_uri

ROI_FILE = "rois.json"
QUPATH_FILE = "rois.geojson"
MAX_ROIS = 1000
_MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class OpenedSlide:
    """A slide as the ROI page shows it.

    Attributes:
        name: of the slide.
        image: (h, w, 3) uint8, small.
        size: of the slide itself, in whose pixels ROIs are.
        rois: that it has.
        annotated: whether it is an annotated slide of the data root, not an upload.
        version: of its `rois.json`, see :func:`save_annotated`.
    """

    name: str
    image: RgbImage
    size: Size
    rois: tuple[Roi, ...]
    annotated: bool
    version: str = ""


def annotated_slides(root: DataRoot) -> list[str]:
    """The annotated slides of the data root that have an H&E image, by name."""
    return [name for name in sorted(folders_in(root.annotations)) if _images(root.annotations / name)]


def open_annotated(root: DataRoot, name: str) -> OpenedSlide:
    """An annotated slide's H&E image and ROIs, those of QuPath's GeoJSON too.

    Raises:
        MissingInput: there is no such slide.
        BadImage: the image cannot be read.
        BadAnnotation: its ROI file cannot be.
    """
    folder = root.annotations / safe_id(name, "The annotated slide")
    images = _images(folder)
    if not images:
        raise MissingInput(f"There is no annotated slide {name!r} with a he.png (or .jpg, .tif): choose another.")
    opened = open_slide_for_rois(read_slide(folder / images[0], name=name))
    rois: list[Roi] = []
    # Taken first: what changes while the files are read counts as changed.
    version = _version(folder)
    for file in sorted({ROI_FILE, QUPATH_FILE} & set(names_in(folder))):
        rois += read_rois(folder / file)
    return OpenedSlide(name, opened.image, opened.size, tuple(rois), annotated=True, version=version)


def open_slide_for_rois(slide: Slide) -> OpenedSlide:
    """An upload, which has no ROIs yet."""
    return OpenedSlide(slide.name, slide.overview(VIEW_PX), slide.size, (), annotated=False)


def editor_html(opened: OpenedSlide) -> str:
    """The slide with a square to move, resize and divide; what it does is in ``roi_editor.js``."""
    size, name = opened.size, escape(opened.name)
    side = max(1, min(size.height_px, size.width_px) // 3)
    left, top = (size.width_px - side) // 2, (size.height_px - side) // 2
    rois = json.loads(rois_json(opened.rois))["rois"]
    numbers = "".join(
        f'<label>{title}<input type="number" name="{key}" value="{value}" min="{low}" max="{high}" step="1"></label>'
        for title, key, value, low, high in (
            ("Left, px", "left", left, 0, size.width_px - 1),
            ("Top, px", "top", top, 0, size.height_px - 1),
            ("Side, px", "side", side, 1, min(size.height_px, size.width_px)),
            ("Divide n × n", "divide", 2, 1, 32),
        )
    )
    return (
        f'<div class="dm-roi" data-width="{size.width_px}" data-height="{size.height_px}" data-name="{name}" '
        f'data-annotated="{"yes" if opened.annotated else ""}" data-rois="{escape(json.dumps(rois))}">'
        f'<div class="dm-scroll"><div class="dm-stack"><img alt="{name}" src="{jpeg_uri(opened.image)}" '
        f'draggable="false"><div class="dm-box" tabindex="0" role="group"><svg class="dm-grid" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none" aria-hidden="true"></svg><div class="dm-handle" aria-hidden="true"></div></div>'
        f'</div></div><div class="dm-fields">{numbers}<label>Name<input type="text" name="name" maxlength="60" '
        f'placeholder="r1"></label><button type="button" class="dm-button" data-what="add">Add ROI</button></div>'
        f'<p class="dm-caption">{name}, {size.width_px:,} × {size.height_px:,} px. Drag the square, or its corner; '
        f"or Tab to it: arrows move it, + and − resize it (with Shift by one pixel), Enter adds it.</p>"
        f'<ul class="dm-list" aria-label="ROIs"></ul></div>'
    )


def rois_from_editor(text: str, root: DataRoot) -> tuple[str, bool, list[Roi]]:
    """What the editor sent: the slide's name, whether it is one of the data root, and its ROIs, all checked.

    Raises:
        BadAnnotation: it is not what the editor sends, or a name cannot be that of a tile, or an ROI is not inside the
            slide.
        MissingInput: no slide is open, or no ROI is there.
        StorageFailed: a name could leave its folder.
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
        raise BadAnnotation(f"The ROIs did not arrive whole ({error!r}): open the slide again.") from error
    if not rois:
        raise MissingInput("There is no ROI yet: place the square and press Add ROI.")
    if len(rois) > MAX_ROIS:
        raise BadAnnotation(f"There are {len(rois)} ROIs and at most {MAX_ROIS} are kept: remove some.")
    if annotated:
        size = open_annotated(root, name).size
    for roi in rois:
        safe_id(roi.name, "The ROI")
        if not roi.box.fits(size) or roi.divide > min(roi.box.size.height_px, roi.box.size.width_px):
            raise BadAnnotation(f"The ROI {roi.name!r} is not inside {name}, or too small to divide: place it again.")
    return name, annotated, rois


def save_annotated(root: DataRoot, name: str, rois: list[Roi], version: str) -> tuple[Path, str]:
    """Puts ROIs where `training_tiles` reads them.

    Args:
        root: the data root.
        name: of the annotated slide.
        rois: all that it is to have.
        version: of the ROIs that these were made from: the sha256 of the file, empty where there was none.

    Returns:
        That place, and the version that lies there now.

    Raises:
        BadAnnotation: somebody else has saved ROIs since, which these would erase; or the slide has ROIs from QuPath,
            beside which there may be no others.
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


def _version(folder: Path) -> str:
    try:
        return sha256_bytes((folder / ROI_FILE).read_bytes())
    except FileNotFoundError:
        return ""


def _images(folder: Path) -> list[str]:
    return sorted(name for name in names_in(folder) if name in {f"he{suffix}" for suffix in SUFFIXES})
