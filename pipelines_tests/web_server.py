"""The web app as a server within a test."""

import socket
import threading
import time
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import SimpleNamespace

import httpx

from dermatome.inference.compute import choose_compute
from dermatome.storage.layout import DataRoot
from dermatome.web.app import build_app
from dermatome.web.context import WebContext
from dermatome.web.payloads import PayloadGuard
from dermatome.web.uploads import UploadLimits

SMALL = UploadLimits(max_file_bytes=400_000)


@contextmanager
def served(folder, *, guarded=True, limits=SMALL, weights="", frame_site=""):
    """Serves the web app in a thread of this process.

    Args:
        folder: of the test; the data root is its `data`.
        guarded: whether the guard of payloads is in place.
        limits: of uploads.
        weights: of nuclei.
        frame_site: the site that may show the app in a frame.
    """
    root = DataRoot.at(str(folder / "data"))
    compute = choose_compute("cpu", "fp32", 1, backend="torch")
    context = WebContext(root, compute, limits, folder / "scratch", weights=weights)
    app = build_app(context, frame_site=frame_site)
    if not guarded:
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls is not PayloadGuard]
    with serving(app) as address, requester(address) as client:
        yield SimpleNamespace(address=address, client=client, context=context, app=app)


def requester(address):
    """A client that keeps no cookie, so that each request is that of a new browser.

    A call of `httpx.get` loads the certificates of the system each time, which takes twenty times as long as a request.
    """
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(base_url=address, cookies=no_cookies, trust_env=False)


@contextmanager
def serving(app):
    """Serves an ASGI app in a thread of this process; gives its address."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@contextmanager
def visited(browser, address):
    """A page of a browser of its own at an address; it asks no other host."""
    context = browser.new_context(base_url=address, accept_downloads=True)
    page, asked = context.new_page(), []
    page.set_default_timeout(120_000)
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))], "other hosts are asked"
