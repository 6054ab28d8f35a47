"""The page that marks ROIs on a slide for `training_tiles`: a square that is moved, resized and divided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dermatome.errors import BadAnnotation
from dermatome.skin.tiles.rois import rois_json
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.slide import DECLARED_MPP
from dermatome.storage.files import write_atomic
from dermatome.web.page import ONE_AT_A_TIME, WebContext, told
from dermatome.web.roi_files import (
    ROI_FILE,
    annotated_slides,
    editor_html,
    open_annotated,
    open_slide_for_rois,
    rois_from_editor,
    save_annotated,
)
from dermatome.web.uploads import read_upload
from dermatome.web.viewer import status_html

TITLE = "Training ROIs"
_SCRIPT = Path(__file__).parent / "roi_editor.js"


def build_roi_page(context: WebContext) -> None:
    """The page's components, within the Blocks that are open."""
    import gradio as gr

    @told(("", ""))
    def open_chosen(name: str | None, path: str | None) -> Iterator[Any]:
        if path:
            opened = open_slide_for_rois(read_upload(Path(path), DECLARED_MPP, context.limits))
        else:
            opened = open_annotated(context.root, name or "")
        known = f"; ROIs: {len(opened.rois)}" if opened.rois else ""
        yield status_html(f"{opened.name} is open{known}."), editor_html(opened), opened.version

    @told((gr.update(value=None, visible=False), gr.skip()))
    def save(text: str, version: str) -> Iterator[Any]:
        name, annotated, rois = rois_from_editor(text, context.root)
        with TemporaryDirectory(dir=context.scratch) as folder:
            file = str(write_atomic(Path(folder) / ROI_FILE, rois_json(rois)))
            said, bad = f"download {ROI_FILE} and put it beside he.png of its annotated slide", False
            if annotated:
                try:
                    path, version = save_annotated(context.root, name, rois, version)
                    said = f"saved as {path}; materialize training_tiles"
                except BadAnnotation as error:
                    said, bad = str(error), True
            status = status_html(said if bad else f"{name}, ROIs: {len(rois)}; {said}.", bad=bad)
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
            upload = gr.File(label="or upload one (used while it is here)", file_types=list(SUFFIXES), height=160)
            opening = gr.Button("Open", variant="primary", elem_id="dm-open")
            saving = gr.Button("Save ROIs", elem_id="dm-save")
            status = gr.HTML(status_html("Choose a slide, then press Open."), elem_id="dm-roi-status")
            download = gr.File(label="Download", interactive=False, height=110, visible=False, elem_id="dm-roi-file")
        with gr.Column(scale=3, min_width=320):
            editor = gr.HTML(elem_id="dm-editor", js_on_load=_SCRIPT.read_text(encoding="utf-8"))
    # Filled in by the browser from the editor as the button is pressed.
    sent = gr.Textbox(visible=False)
    # Kept by the browser, as the server forgets: of the ROIs that those of the editor were made from.
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
