"""The page of nuclei: one H&E image → classes, ternary map, instances, counts and TIL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr  # as in stop.py

from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.web.nuclei_chain import (
    counts_html,
    find_nuclei,
    load_nuclei_network,
    nuclei_examples,
    nuclei_source,
    nuclei_summary,
    nuclei_view,
    said_of,
    write_nuclei_files,
)
from dermatome.web.page import ONE_AT_A_TIME, WebContext, image_choice, noted, told
from dermatome.web.stop import stops
from dermatome.web.uploads import choose_slide
from dermatome.web.viewer import status_html

if TYPE_CHECKING:
    from dermatome.nuclei.maps.segment import NucleusNetwork
    from dermatome.registry.champion import Weights

TITLE = "Nuclei"


def build_nuclei_page(context: WebContext) -> None:
    """The page's components, within the Blocks that are open."""

    @lru_cache(maxsize=1)
    def network(source: Weights, settings: NucleusSettings) -> NucleusNetwork:
        return load_nuclei_network(source, settings, context.compute)

    examples = nuclei_examples()

    @told(("", "", gr.update(value=None, visible=False)))
    def run(
        path: str | None,
        example: str | None,
        mpp: float | None,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        with TemporaryDirectory(dir=context.scratch) as folder:
            with context.turns.of(request.session_hash) as check:

                def say(share: float, text: str) -> None:
                    check()
                    progress(share, desc=text)

                say(0.02, "Reading the image")
                settings, chosen = context.settings, nuclei_source(context)
                slide = choose_slide(path, example, mpp, context.limits, examples)
                say(0.05, "Loading the network")
                ready = network(chosen, settings.nuclei)
                # How many tiles there will be is the predictor's to know: the bar nears its end and never passes it.
                found = find_nuclei(
                    slide, chosen, ready, settings, context.limits,
                    lambda tiles: say(0.1 + 0.75 * tiles / (tiles + 8), f"{tiles} tiles done"),
                )  # fmt: skip
                say(0.9, "Drawing")
                files = [str(file) for file in write_nuclei_files(found, Path(folder))]
                shown = gr.update(value=files, visible=True)
                answer = status_html(nuclei_summary(found)), nuclei_view(found), counts_html(found), shown
            yield answer

    gr.Markdown(
        "# Nuclei\nNuclei of an H&E image with their classes, and how many lymphocytes are among them. For research, "
        "not for diagnosis."
    )
    note = gr.Markdown(elem_classes="dm-note")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            choice = image_choice(context.limits, list(examples), mpp=context.settings.nuclei_images.declared_mpp)
            button = gr.Button("Find nuclei", variant="primary", elem_id="dm-run")
            stop = gr.Button("Stop", elem_id="dm-stop")
            status = gr.HTML(
                status_html("Upload an image or pick an example, then press the button."), elem_id="dm-status"
            )
        # On a phone columns come one below the other: first what was asked for, then its numbers and files.
        with gr.Column(scale=3, min_width=320):
            view = gr.HTML(elem_id="dm-view")
            with gr.Row():
                with gr.Column(min_width=280):
                    counts = gr.HTML(elem_id="dm-counts")
                with gr.Column(min_width=280):
                    downloads = gr.File(
                        label="Downloads", file_count="multiple", interactive=False, visible=False,
                        elem_id="dm-downloads",
                    )  # fmt: skip
    computing = button.click(
        run, choice.inputs, [status, view, counts, downloads],
        api_name="nuclei", show_progress_on=[status], **ONE_AT_A_TIME,
    )  # fmt: skip
    stops(stop, context, computing, status)
    gr.on(fn=noted(lambda: said_of(nuclei_source(context))), outputs=note, api_visibility="private")
