"""The app: its pages in one FastAPI application that asks nothing of any other host."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting
from dermatome.settings import load_settings
from dermatome.storage.layout import DataRoot
from dermatome.web.nuclei_chain import nuclei_source
from dermatome.web.page import WebContext
from dermatome.web.uploads import UploadLimits

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

HEALTH = "/healthz"
WAITING = 64
"""Images that may wait for their turn; one more is told to come again."""
SESSIONS = 32
"""Browsers of whom Gradio remembers what it showed them last, some MB each; a forgotten one notices nothing."""
KEPT_S = 3600
"""How long uploads and results wait on disk."""
_GRACE_S = 3

_HEADERS = {
    # Pages hold their pictures and small scripts themselves; nothing may be loaded from, or sent to, anywhere else.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def serve(root: DataRoot, host: str, port: int, *, weights: str = "", threads: int = 0) -> None:
    """Serves the app until it is interrupted; uploads and results lie in a temporary folder that goes with it.

    Args:
        root: the data root.
        host: address to listen on.
        port: to listen on.
        weights: of nuclei, see :class:`WebContext`.
        threads: CPU threads of networks; 0 takes the settings', or the free cores.

    Raises:
        BadSetting: Gradio is not installed, the port is taken, or the settings file is wrong.
        BadWeights: there are no such weights.
    """
    import socket

    settings = load_settings(root.settings).compute

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadSetting(f"The web app cannot listen on {host}:{port} ({error.strerror}): try --port.") from error
    with tempfile.TemporaryDirectory(prefix="dermatome-web-") as scratch:
        compute = settings.choose(threads=threads)
        context = WebContext(root, compute, UploadLimits(), Path(scratch), settings.backend, weights)
        if weights:  # what is wrong with networks of the settings, the pages say
            nuclei_source(context)
        app = build_app(context)
        import uvicorn

        # Open pages hold a connection for as long as they are open, which would keep the app from ending.
        uvicorn.run(
            app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=_GRACE_S
        )


def build_app(context: WebContext) -> FastAPI:
    """The application: the pages, and ``/healthz`` that says that it is up.

    Raises:
        BadSetting: Gradio is not installed.
    """
    gr = _gradio(context.scratch)
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    def health() -> dict[str, str]:
        return {"status": "ok"}

    app.middleware("http")(headers)
    app.get(HEALTH)(health)

    blocks = _pages(gr, context)
    with warnings.catch_warnings():
        # Of several pages Gradio says that it does not render them on the server, asked for or not.
        warnings.filterwarnings("ignore", message="SSR mode")
        mounted: FastAPI = gr.mount_gradio_app(
            app, blocks, path="/", theme=_theme(gr), css_paths=[Path(__file__).parent / "style.css"], footer_links=[],
            run_history=False, show_error=False, ssr_mode=False, max_file_size=context.limits.max_file_bytes,
            mcp_server=False, enable_monitoring=False, pwa=False,
        )  # fmt: skip
    return mounted


def _theme(gr: Any) -> Any:
    """The browser's own fonts, as others would be fetched; words and buttons dark enough to be read."""
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(
        body_text_color_subdued="#565660", block_info_text_color="#565660", block_title_text_color="#2a2a30",
        block_label_text_color="#2a2a30", button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_hover="#1e40af", button_primary_text_color="white",
    )  # fmt: skip


def _pages(gr: Any, context: WebContext) -> Any:
    from dermatome.web import nuclei_page, roi_page, skin_page
    from dermatome.web.stop import stop_when_left

    with gr.Blocks(title="Dermatome", analytics_enabled=False, delete_cache=(600, KEPT_S)) as blocks:
        gr.Navbar(main_page_name=nuclei_page.TITLE)
        nuclei_page.build_nuclei_page(context)
        stop_when_left(context, blocks)
    for path, title, build in (
        ("/skin", skin_page.TITLE, skin_page.build_skin_page),
        ("/rois", roi_page.TITLE, roi_page.build_roi_page),
    ):
        with blocks.route(title, path):
            gr.Navbar(main_page_name=nuclei_page.TITLE)
            build(context)
    blocks.queue(max_size=WAITING, default_concurrency_limit=4)
    blocks.state_session_capacity = SESSIONS  # `launch` has an argument for it, and mounted apps have not
    return blocks


def _gradio(scratch: Path) -> Any:
    """Gradio, told before it is imported to keep its files in our folder and to report to nobody."""
    os.environ["GRADIO_TEMP_DIR"] = str(scratch / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise BadSetting(f"The web app needs Gradio ({error}): pip install 'dermatome[web]'.") from error
    return gr
