"""The web app: its pages in one FastAPI application that loads nothing from other hosts."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dermatome.errors import BadSetting
from dermatome.settings import load_settings
from dermatome.storage.layout import DataRoot
from dermatome.web import correct, nuclei, rois, skin
from dermatome.web.atlas.pages import BELOW, atlas_routes
from dermatome.web.context import WebContext
from dermatome.web.guard import SiteGuard
from dermatome.web.payloads import PayloadGuard
from dermatome.web.ports import port_problem
from dermatome.web.quota import COOKIE, Browsers, UploadQuota
from dermatome.web.uploads import MIB, UploadLimits

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

HEALTH = "/healthz"
WAITING = 64
"""Number of images that may wait for computation; further ones are refused."""
SESSIONS = 32
"""Number of browsers whose last outputs Gradio keeps in memory, some MB each; a page works without them."""
KEPT_S = 3600
"""Time for which uploads and results are kept on disk, s."""
_GRACE_S = 3
_SCRATCH_PREFIX = "dermatome-web-"
_SCRATCH_LOCK = "lock"
_SCRATCH_UNLOCKED_S = 1

_NUCLEI, _ATLAS = "/nuclei", "Atlas"
_POLICY, _NONE = "Content-Security-Policy", "'none'"
_HEADERS = {
    # Pages contain their pictures and scripts: nothing may be loaded from, or sent to, another host.
    _POLICY: (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors "
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _headers(frame_site: str) -> dict[str, str]:
    """The headers of every response; without ``frame_site`` no page may show the app in a frame."""
    policy = _HEADERS[_POLICY]
    if frame_site:
        return _HEADERS | {_POLICY: policy + frame_site}
    return _HEADERS | {_POLICY: policy + _NONE, "X-Frame-Options": "DENY"}


def serve(
    root: DataRoot, host: str, port: int, *, allow_hosts: Iterable[str], frame_site: str, weights: str, threads: int,
    report: Callable[[str], None],
) -> None:  # fmt: skip
    """Serves the app until it is interrupted, with uploads and results in a temporary folder.

    The arguments are the options of the command `dermatome web`; ``report`` is called with a sentence when the app
    starts and another when it is ready.

    Raises:
        BadSetting: Gradio is not installed, the port is taken, or the settings file is wrong.
        BadWeights: The weights do not exist.
    """
    settings = load_settings(root.settings).compute
    if reason := port_problem(host, port):
        raise BadSetting(f"The web app cannot listen on {host}:{port} ({reason}): try --host or --port.")
    # uvicorn repeats the signal once it has stopped, which would end the process before its folder is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sweep_scratch_folders()
    report(f"Starting the web app over {root.path} …")
    with scratch_folder() as scratch:
        compute = settings.choose(threads=threads)
        context = WebContext(root, compute, UploadLimits(), scratch, weights)
        if weights:  # errors in the settings' own weights are shown on the pages
            nuclei.nuclei_source(context)
        app = build_app(context, [host, *allow_hosts], frame_site)
        import uvicorn

        class Server(uvicorn.Server):  # type: ignore[misc]
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                report(f"Dermatome's web app: http://{host}:{port} (Ctrl-C ends it)")

        # Open pages hold a connection as long as they are open, which would prevent the app from ending.
        config = uvicorn.Config(
            app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=_GRACE_S
        )
        with suppress(KeyboardInterrupt):
            Server(config).run()


def build_app(context: WebContext, hosts: Iterable[str] = (), frame_site: str = "") -> FastAPI:
    """Builds the application: the pages, and ``/healthz``, which responds while the app runs.

    Browsers may use the host names ``hosts`` besides the loopback addresses; pages of ``frame_site`` may frame the app.

    Raises:
        BadSetting: Gradio is not installed.
    """
    gr = _gradio(context.scratch)
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    browsers, own_headers = Browsers(), _headers(frame_site)
    # In a frame on another site, browsers return a cookie only if it is marked for that, and only over TLS.
    cookie: dict[str, Any] = {"samesite": "none", "secure": True} if frame_site else {"samesite": "strict"}

    async def headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        own_policy = response.headers.get(_POLICY)
        response.headers.update(own_headers)
        if own_policy is not None:  # that of an atlas page, which may do less than one of Gradio's
            response.headers[_POLICY] = f"{own_policy}; frame-ancestors {frame_site or _NONE}"
        if response.headers.get("content-type", "").startswith("text/html") and browsers.known(request.scope) is None:
            response.set_cookie(COOKIE, browsers.new_cookie(), httponly=True, **cookie)
        return response

    app.middleware("http")(headers)
    app.get(HEALTH)(_health)
    correct.add_correction_page(app, context.root)
    app.router.routes += atlas_routes(context.root, home=_NUCLEI)

    blocks = _pages(gr, context)
    with warnings.catch_warnings():
        # Gradio warns that it cannot render several pages on the server, although that is switched off.
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
    pages = frozenset(["/", HEALTH, *(f"/{page}" for page, *_ in blocks.pages if page)]) | correct.ADDRESSES
    mounted.add_middleware(
        PayloadGuard, pages=pages, below=BELOW, posts=frozenset([correct.SAVE]),
        file_inputs=file_inputs,
        max_upload_bytes=context.limits.max_file_bytes + MIB, browsers=browsers,
        quota=UploadQuota(_upload_folder(context.scratch), context.limits, KEPT_S),
    )  # fmt: skip
    mounted.add_middleware(SiteGuard, hosts=hosts, framed=bool(frame_site))
    return mounted


async def _health() -> dict[str, str]:
    return {"status": "ok"}


def _theme(gr: Any) -> Any:
    """A theme with the browser's fonts, as others would be downloaded, and with enough contrast."""
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(
        body_text_color_subdued="#565660", block_info_text_color="#565660", block_title_text_color="#2a2a30",
        block_label_text_color="#2a2a30", button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_hover="#1e40af", button_primary_text_color="white",
    )  # fmt: skip


def _pages(gr: Any, context: WebContext) -> Any:
    from dermatome.web.page import build_page, stop_when_left

    # Gradio's own first page is empty, as the atlas is shown in its place.
    with gr.Blocks(title="Dermatome", analytics_enabled=False, delete_cache=(600, KEPT_S)) as blocks:
        pass
    with blocks.route(nuclei.TITLE, _NUCLEI):
        gr.Navbar([(correct.TITLE, correct.PAGE[1:])], main_page_name=_ATLAS)
        build_page(nuclei.nuclei_page(context), context)
        stop_when_left(context, blocks)
    with blocks.route(skin.TITLE, "/skin"):
        gr.Navbar([(correct.TITLE, correct.PAGE[1:])], main_page_name=_ATLAS)
        build_page(skin.skin_page(context), context)
    with blocks.route(rois.TITLE, "/rois"):
        gr.Navbar([(correct.TITLE, correct.PAGE[1:])], main_page_name=_ATLAS)
        rois.build_roi_page(context)
    blocks.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)
    blocks.state_session_capacity = SESSIONS  # an argument of `launch`, which mounted apps do not call
    return blocks


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields a temporary folder that is locked, so that no other app deletes it, until the block ends."""
    with (
        tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / _SCRATCH_LOCK, fallback_to_soft=False),
    ):
        yield Path(folder)


def sweep_scratch_folders() -> None:
    """Deletes the temporary folders of apps that were killed: those that no running process has locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*"):
        try:
            locked_once = (folder / _SCRATCH_LOCK).exists()  # an app that is starting has not locked its folder yet
            if folder.is_symlink() or (not locked_once and time.time() - folder.stat().st_mtime < _SCRATCH_UNLOCKED_S):
                continue
            with FileLock(folder / _SCRATCH_LOCK, blocking=False, fallback_to_soft=False):
                shutil.rmtree(folder)
        except (OSError, Timeout):  # already deleted, another user's, or in use
            continue


def _upload_folder(scratch: Path) -> Path:
    """Folder in which Gradio keeps uploads and downloads."""
    return scratch / "gradio"


def _gradio(scratch: Path) -> Any:
    """Imports Gradio, configured to keep its files in our folder and to send no reports."""
    os.environ["GRADIO_TEMP_DIR"] = str(_upload_folder(scratch))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise BadSetting(f"The web app needs Gradio ({error}): pip install 'dermatome[web]'.") from error
    return gr
