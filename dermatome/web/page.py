"""Builds the page of an analysis: choose an image, compute it in the queue, stop, see the result, download files.

Gradio recognizes the request parameter by its type, so it is imported at the top of this module. The app imports this
module only after setting Gradio's environment variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from dermatome.slides.plain import SUFFIXES
from dermatome.web.context import AnalysisPage, WebContext, add_csv, errors_shown, networks_note
from dermatome.web.uploads import choose_slide
from dermatome.web.viewer import status_html

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
"""Options of every event that computes: one at a time, as threads cannot share networks and memory is limited."""


def build_page(page: AnalysisPage, context: WebContext) -> None:
    """Adds the components and events of an analysis page to the open Blocks."""

    @errors_shown(("", "", gr.update(value=None, visible=False)))
    def run(
        path: str | None,
        example: str | None,
        mpp: float | None,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        with TemporaryDirectory(dir=context.scratch) as folder:
            with context.turns.of(request.session_hash) as check:

                def report(share: float, text: str) -> None:
                    check()
                    progress(share, desc=text)

                report(0.02, "Reading the image")
                found = page.compute(choose_slide(path, example, mpp, context.limits, page.examples), report)
                report(0.9, "Drawing")
                found.write(Path(folder))
                files = [str(file) for file in add_csv(Path(folder))]
                status = status_html(found.summary, warning=found.warning)
                results = status, found.view(), found.tables(Path(folder))
            yield *results, gr.update(value=files, visible=True)

    def stop(request: gr.Request) -> str:
        context.turns.stop(request.session_hash)
        return status_html("Stopped. The results on this page, if any, are those of the run before.")

    gr.Markdown(page.text)
    note = gr.Markdown(elem_classes="dm-note")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            upload = gr.File(label="Image", file_types=list(SUFFIXES), file_count="single", height=140)
            gr.Markdown(context.limits.in_words(), elem_classes="dm-note")
            names = list(page.examples)
            example = gr.Dropdown(names, value=names[0], label="or an example", info="Used while no image is uploaded.")
            mpp = gr.Number(
                page.mpp, label="Microns per pixel, if the file states none", minimum=0.05, maximum=10,
                info="Declared by you, not measured. The value that a TIFF file states has priority.",
            )  # fmt: skip
            run_button = gr.Button(page.action, variant="primary", elem_id="dm-run")
            stop_button = gr.Button("Stop", elem_id="dm-stop")
            first = status_html("Upload an image or pick an example, then press the button.")
            status = gr.HTML(first, elem_id="dm-status")
        # A phone shows one column below the other: first the result, then its numbers and files.
        with gr.Column(scale=3, min_width=320):
            view = gr.HTML(elem_id="dm-view")
            tables = gr.HTML(elem_id="dm-tables")
            downloads = gr.File(
                label="Downloads", file_count="multiple", interactive=False, visible=False, elem_id="dm-downloads"
            )
    computing = run_button.click(
        run, [upload, example, mpp], [status, view, tables, downloads],
        api_name=page.api_name, show_progress_on=[status], **ONE_AT_A_TIME,
    )  # fmt: skip
    stop_button.click(
        stop, outputs=status, cancels=[computing], queue=False, show_progress="hidden", api_visibility="private"
    )
    gr.on(fn=lambda: networks_note(page.networks), outputs=note, api_visibility="private")


def stop_when_left(context: WebContext, blocks: gr.Blocks) -> None:
    """Stops a browser's computation when it closes the page; Gradio removes its waiting requests from the queue."""

    def left(request: gr.Request) -> None:
        context.turns.stop(request.session_hash)

    blocks.unload(left)
