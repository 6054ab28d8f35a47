"""The page of the skin chain: one image → tissue → cells → layers with profiles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dermatome.figures import layers_figure
from dermatome.web.page import ONE_AT_A_TIME, WebContext, image_choice, told
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
from dermatome.web.uploads import choose_slide
from dermatome.web.viewer import picture_html, status_html

TITLE = "Skin layers"


def build_skin_page(context: WebContext) -> None:
    """The page's components, within the Blocks that are open."""
    import gradio as gr

    @lru_cache(maxsize=1)
    def networks(source: SkinSource) -> SkinNetworks:
        return load_skin_networks(source, context.compute, context.backend)

    examples = skin_examples()

    hidden = gr.update(value=None, visible=False)

    @told(("", "", hidden, hidden))
    def run(
        path: str | None,
        example: str | None,
        mpp: float | None,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        progress(0.02, desc="Reading the image")
        slide = choose_slide(path, example, mpp, context.limits, examples)
        progress(0.05, desc="Loading the networks")
        found = run_skin_chain(
            slide, networks(skin_source(context.root)), lambda share, text: progress(share, desc=text)
        )
        progress(0.9, desc="Drawing")
        with TemporaryDirectory(dir=context.scratch) as folder:
            files = write_skin_files(found, Path(folder))
            profiles = picture_html(layers_figure(slide, found.layers), "Profiles by layer")
            layers = found.layers.layers.round(3)
            yield (
                status_html(skin_summary(found)),
                skin_view(found),
                profiles,
                gr.update(value=layers, visible=not layers.empty),
                gr.update(value=[str(path) for path in files], visible=True),
            )

    gr.Markdown(
        "# Skin layers\nTissue, the cells of the epidermis, and its layers counted from the dermis, with DAB and "
        "hematoxylin in each, of one image."
    )
    note = gr.Markdown(elem_classes="dm-note")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            choice = image_choice(context.limits, list(examples))
            button = gr.Button("Measure layers", variant="primary", elem_id="dm-run")
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
    button.click(
        run, choice.inputs, [status, view, profiles, table, downloads],
        api_name="skin", show_progress_on=[status], **ONE_AT_A_TIME,
    )  # fmt: skip
    gr.on(fn=lambda: skin_source(context.root).said, outputs=note, api_visibility="private")
