"""Ending a computation before its time: a Stop button, and browsers that go away.

Gradio finds the parameter it puts the request into by its type, so Gradio is imported here as this module is; the app
imports it only after it has told Gradio where its files go.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from dermatome.web.page import WebContext
from dermatome.web.viewer import status_html


def stops(button: gr.Button, context: WebContext, computing: Any, status: gr.HTML) -> None:
    """Has ``button`` end what the event ``computing`` computes for this browser, or take it out of the queue."""

    def stop(request: gr.Request) -> str:
        context.turns.stop(request.session_hash)
        return status_html("Stopped. What is shown, if anything, is of the run before.")

    button.click(
        stop, outputs=status, cancels=[computing], queue=False, show_progress="hidden", api_visibility="private"
    )


def stop_when_left(context: WebContext, blocks: gr.Blocks) -> None:
    """A browser that goes away ends what is computed for it; Gradio takes what waits out of the queue."""

    def left(request: gr.Request) -> None:
        context.turns.stop(request.session_hash)

    blocks.unload(left)
