"""The web app as an attacker meets it: files of the server, the queue, other sites."""

import contextlib
import json
import re
import secrets
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from dermatome.inference.compute import choose_compute
from dermatome.storage.layout import DataRoot
from dermatome.web.app import HEALTH, build_app
from dermatome.web.page import WebContext
from dermatome.web.payloads import PayloadGuard
from dermatome.web.uploads import UploadLimits

pytestmark = pytest.mark.slow

FILE_DATA = {"_type": "gradio.FileData"}


@contextlib.contextmanager
def served(folder, *, guarded=True):
    """The app in a thread of this process; without its guard of payloads, if asked for."""
    import uvicorn

    root = DataRoot.at(str(folder / "data"))
    limits = UploadLimits(max_file_bytes=400_000)
    app = build_app(WebContext(root, choose_compute("cpu", "fp32", 1), limits, folder / "scratch", backend="torch"))
    if not guarded:
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls is not PayloadGuard]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield SimpleNamespace(address=f"http://127.0.0.1:{listening.getsockname()[1]}", folder=folder)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    with served(tmp_path_factory.mktemp("web")) as web:
        yield web


def events(address, session, seconds=20):
    """All that the queue reports to a session until its computation ends."""
    text = ""
    asked = {"session_hash": session}
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.stream("GET", f"{address}/gradio_api/queue/data", params=asked, timeout=seconds) as stream,
    ):
        for line in stream.iter_lines():
            text += line
            if "process_completed" in line or "unexpected_error" in line:
                break
    return text


def shapes(path):
    """How a path may be hidden in a payload."""
    bare = {"path": path, "meta": FILE_DATA}
    yield from (bare, bare | {"url": path, "is_stream": False}, [bare], [[bare]], {"value": bare}, {"a": [{"b": bare}]})
    yield {"path": path}
    yield {"headers": ["a"], "data": [[bare]], "metadata": {"a": bare}}


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "gradio-alone"])
def test_no_file_outside_leaks_by_any_input_of_any_endpoint(tmp_path, guarded):
    secret = secrets.token_hex(16)
    outside = tmp_path / "outside.txt"
    outside.write_text(secret)
    with served(tmp_path, guarded=guarded) as web:
        functions = httpx.get(f"{web.address}/config").json()["dependencies"]
        assert len(functions) >= 10
        assert sum(len(function["inputs"]) for function in functions) >= 10
        answers = []
        for function in functions:
            index, name, inputs = function["id"], function["api_name"], function["inputs"]
            bodies = [
                {"data": [shape if other == place else None for other in range(len(inputs))]}
                for place in range(len(inputs))
                for shape in shapes(str(outside))
            ]
            bodies += [{"data": [None] * len(inputs), "event_data": shape} for shape in shapes(str(outside))]
            for body in bodies:
                session = secrets.token_hex(5)
                sent = body | {"fn_index": index, "session_hash": session}
                answer = httpx.post(f"{web.address}/gradio_api/queue/join", json=sent)
                answers.append(answer.text)
                assert answer.status_code == 403 or not guarded
                if answer.status_code == 200:
                    answers.append(events(web.address, session))
                for way in ("run", "api", "call"):
                    answer = httpx.post(f"{web.address}/gradio_api/{way}/{name}", json=sent)
                    answers.append(answer.text)
                    assert answer.status_code in (403, 404) or not guarded
        for path in sorted({path for text in answers for path in re.findall(r"/[\w./-]+", text)}):
            answers.append(httpx.get(f"{web.address}/gradio_api/file={path}").text)
        answers.append(httpx.get(f"{web.address}/gradio_api/file={outside}").text)
    assert not [text for text in answers if secret in text]
    copies = [
        file for file in (tmp_path / "scratch").rglob("*") if file.is_file() and secret in file.read_text("latin-1")
    ]
    assert not copies, "the file was copied to where it is served from"


def test_an_upload_is_computed_and_can_be_fetched_again(web):
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (200, 150, 200)).save(buffer, format="PNG")
    (path,) = httpx.post(
        f"{web.address}/gradio_api/upload", files={"files": ("mine.png", buffer.getvalue(), "image/png")}
    ).json()
    assert httpx.get(f"{web.address}/gradio_api/file={path}").content == buffer.getvalue()
    sent = {"data": [{"path": path, "meta": FILE_DATA}, None, 0.25], "fn_index": 0, "session_hash": "mine"}
    assert httpx.post(f"{web.address}/gradio_api/queue/join", json=sent).status_code == 200
    assert "mine: " in events(web.address, "mine", 120)


def test_only_the_queue_computes_and_a_flood_of_direct_requests_hangs_nothing(web):
    functions = httpx.get(f"{web.address}/config").json()["dependencies"]
    for function in functions:
        for sent in ({}, {"fn_index": function["id"]}, {"fn_index": str(function["id"])}, {"event_id": "x"}):
            body = {"data": [None] * len(function["inputs"]), "session_hash": "direct"} | sent
            status = httpx.post(f"{web.address}/gradio_api/run/{function['api_name']}", json=body).status_code
            assert (status == 404) == function["queue"], function["api_name"]
    asked = {"data": [None, "Synthetic nuclei 1", 0.25]}
    with ThreadPoolExecutor(60) as pool:
        flood = [
            pool.submit(httpx.post, f"{web.address}/gradio_api/run/nuclei", json=asked, timeout=60) for _ in range(60)
        ]
        for path in (HEALTH, "/", "/gradio_api/app_id"):
            assert httpx.get(web.address + path, timeout=10).status_code == 200
        assert Counter(answer.result().status_code for answer in flood) == {404: 60}


def test_the_health_check_answers_while_every_thread_is_busy(web, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr("dermatome.web.roi_page.annotated_slides", lambda root: let_go.wait(60) and [])
    (listing,) = [
        function["id"]
        for function in httpx.get(f"{web.address}/config").json()["dependencies"]
        if function["api_name"] == "list_slides"
    ]
    try:
        for number in range(64):
            sent = {"data": [], "fn_index": listing, "session_hash": f"busy{number}"}
            httpx.post(f"{web.address}/gradio_api/queue/join", json=sent)
        for _ in range(5):
            assert httpx.get(web.address + HEALTH, timeout=3).json() == {"status": "ok"}
    finally:
        let_go.set()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_other_sites_are_refused_and_get_no_permission_to_read(web, headers):
    for path in ("/", "/config", HEALTH, "/gradio_api/info"):
        answer = httpx.get(web.address + path, headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    asked = {"Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{web.address}/gradio_api/queue/join", headers=headers | asked)
    assert answer.status_code in (403, 404)
    assert "access-control-allow-origin" not in answer.headers


def test_a_huge_body_is_refused_before_it_is_parsed(web):
    sent = json.dumps({"data": ["x" * (5 << 20), ""], "fn_index": 10, "session_hash": "huge"})
    assert httpx.post(f"{web.address}/gradio_api/queue/join", content=sent).status_code == 413
    assert httpx.post(f"{web.address}/gradio_api/upload", files={"files": bytes(2 << 20)}).status_code == 413
