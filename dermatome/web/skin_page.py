"""The page of the skin chain: one image → tissue → cells → layers with profiles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr  # as in stop.py

from dermatome.skin.layers.figures import layers_figure
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.web.page import ONE_AT_A_TIME, WebContext, image_choice, noted, told
from dermatome.web.skin_chain import (
    SkinNetworks,
    SkinSource,
    load_skin_networks,
    run_skin_chain,
    skin_examples,
    skin_source,
    skin_summary,
    skin_view,
    write_skin_files,
)
from dermatome.web.stop import stops
from dermatome.web.uploads import choose_slide
from dermatome.web.viewer import picture_html, status_html

TITLE = "Skin layers"


def build_skin_page(context: WebContext) -> None:
    """The page's components, within the Blocks that are open."""

    def source() -> SkinSource:
        return skin_source(context.root, context.settings.cell_weights)

    @lru_cache(maxsize=1)
    def networks(source: SkinSource, settings: TissueSettings) -> SkinNetworks:
        return load_skin_networks(source, settings, context.compute)

    examples = skin_examples()

    hidden = gr.update(value=None, visible=False)

    @told(("", "", hidden, hidden))
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
                settings, chosen = context.settings, source()
                slide = choose_slide(path, example, mpp, context.limits, examples)
                say(0.05, "Loading the networks")
                found = run_skin_chain(slide, networks(chosen, settings.tissue), settings, context.limits, say)
                say(0.9, "Drawing")
                files = write_skin_files(found, Path(folder))
                profiles = picture_html(layers_figure(slide, found.layers), "Profiles by layer")
                layers = found.layers.layers.round(3)
                answer = (
                    status_html(f"{skin_summary(found)} {chosen.named}."),
                    skin_view(found),
                    profiles,
                    gr.update(value=layers, visible=not layers.empty),
                    gr.update(value=[str(path) for path in files], visible=True),
                )
            yield answer

    gr.Markdown(
        "# Skin layers\nTissue, the cells of the epidermis, and its layers counted from the dermis, with DAB and "
        "hematoxylin in each, of one image."
    )
    note = gr.Markdown(elem_classes="dm-note")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            choice = image_choice(context.limits, list(examples), mpp=context.settings.images.declared_mpp)
            button = gr.Button("Measure layers", variant="primary", elem_id="dm-run")
            stop = gr.Button("Stop", elem_id="dm-stop")
            status = gr.HTML(
                status_html("Upload an image or pick an example, then press the button."), elem_id="dm-status"
            )
        with gr.Column(scale=3, min_width=320):
            view = gr.HTML(elem_id="dm-view")
    profiles = gr.HTML(elem_id="dm-profiles")
    table = gr.Dataframe(label="Layers, 1 = basal", interactive=False, visible=False)
    downloads = gr.File(
        label="Downloads", file_count="multiple", interactive=False, visible=False, elem_id="dm-downloads"
    )
    computing = button.click(
        run, choice.inputs, [status, view, profiles, table, downloads],
        api_name="skin", show_progress_on=[status], **ONE_AT_A_TIME,
    )  # fmt: skip
    stops(stop, context, computing, status)
    gr.on(fn=noted(lambda: source().said), outputs=note, api_visibility="private")
