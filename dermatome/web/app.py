"""The app: its pages in one FastAPI application that asks nothing of any other host."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting
from dermatome.settings import load_settings
from dermatome.storage.layout import DataRoot
from dermatome.web.guard import SiteGuard
from dermatome.web.nuclei_chain import nuclei_source
from dermatome.web.page import WebContext
from dermatome.web.payloads import PayloadGuard
from dermatome.web.quota import COOKIE, Browsers, UploadQuota
from dermatome.web.scratch import scratch_folder, sweep_scratch_folders
from dermatome.web.uploads import MIB, UploadLimits

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


def serve(
    root: DataRoot, host: str, port: int, *, allow_hosts: Iterable[str] = (), weights: str = "", threads: int = 0
) -> None:
    """Serves the app until it is interrupted; uploads and results lie in a temporary folder that goes with it.

    Args:
        root: the data root.
        host: address to listen on.
        port: to listen on.
        allow_hosts: host names that browsers may reach the app by, beside ``host`` and the loopback addresses.
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
    # uvicorn sends the signal again once it has stopped, which would end the process before its folder is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sweep_scratch_folders()
    with scratch_folder() as scratch:
        compute = settings.choose(threads=threads)
        context = WebContext(root, compute, UploadLimits(), scratch, weights)
        if weights:  # what is wrong with networks of the settings, the pages say
            nuclei_source(context)
        app = build_app(context, [host, *allow_hosts])
        import uvicorn

        # Open pages hold a connection for as long as they are open, which would keep the app from ending.
        uvicorn.run(
            app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=_GRACE_S
        )


def build_app(context: WebContext, hosts: Iterable[str] = ()) -> FastAPI:
    """Builds the application: the pages, and ``/healthz`` that reports that it is up.

    Args:
        context: data root, networks and limits of the pages.
        hosts: host names that are trusted beside the loopback addresses.

    Raises:
        BadSetting: Gradio is not installed.
    """
    gr = _gradio(context.scratch)
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    browsers = Browsers()

    async def headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(_HEADERS)
        if response.headers.get("content-type", "").startswith("text/html") and browsers.known(request.scope) is None:
            response.set_cookie(COOKIE, browsers.new_cookie(), httponly=True, samesite="strict")
        return response

    async def health() -> dict[str, str]:
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
    # Gradio refuses paths outside its upload folder only in apps that were launched; mounted apps never are.
    blocks.has_launched = True
    file_inputs = {
        number: frozenset(place for place, part in enumerate(function.inputs) if isinstance(part, gr.File))
        for number, function in blocks.fns.items()
    }
    pages = frozenset(["/", HEALTH, *(f"/{page}" for page, *_ in blocks.pages if page)])
    mounted.add_middleware(
        PayloadGuard, pages=pages, folder=_upload_folder(context.scratch), file_inputs=file_inputs,
        max_upload_bytes=context.limits.max_file_bytes + MIB, browsers=browsers,
        quota=UploadQuota(_upload_folder(context.scratch), context.limits, KEPT_S),
    )  # fmt: skip
    mounted.add_middleware(SiteGuard, hosts=hosts)
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
    blocks.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)
    blocks.state_session_capacity = SESSIONS  # `launch` has an argument for it, and mounted apps have not
    return blocks


def _upload_folder(scratch: Path) -> Path:
    """Where Gradio keeps uploads and downloads."""
    return scratch / "gradio"


def _gradio(scratch: Path) -> Any:
    """Gradio, told before it is imported to keep its files in our folder and to report to nobody."""
    os.environ["GRADIO_TEMP_DIR"] = str(_upload_folder(scratch))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise BadSetting(f"The web app needs Gradio ({error}): pip install 'dermatome[web]'.") from error
    return gr
