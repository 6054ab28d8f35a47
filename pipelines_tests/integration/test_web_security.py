"""The web app as an attacker meets it: files of the server, the queue, other sites."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from dermatome.web.app import HEALTH
from dermatome.web.context import MAX_THREADS
from dermatome.web.uploads import UploadLimits
from pipelines_tests.bad_images import saved
from pipelines_tests.e2e.platform import CHECKOUT, free_port
from pipelines_tests.web_server import requester, served

pytestmark = pytest.mark.slow

FILE_DATA = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    with served(tmp_path_factory.mktemp("web")) as web:
        yield web


def events(web, session, seconds=20):
    """All that the queue reports to a session until its computation ends."""
    text = ""
    asked = {"session_hash": session}
    with (
        contextlib.suppress(httpx.HTTPError),
        web.client.stream("GET", "/gradio_api/queue/data", params=asked, timeout=seconds) as stream,
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
        functions = web.client.get("/config").json()["dependencies"]
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
                answer = web.client.post("/gradio_api/queue/join", json=sent)
                answers.append(answer.text)
                assert answer.status_code == 403 or not guarded
                if answer.status_code == 200:
                    answers.append(events(web, session))
                for way in ("run", "api", "call"):
                    answer = web.client.post(f"/gradio_api/{way}/{name}", json=sent)
                    answers.append(answer.text)
                    assert answer.status_code in (403, 404) or not guarded
        for path in sorted({path for text in answers for path in re.findall(r"/[\w./-]+", text)}):
            answers.append(web.client.get(f"/gradio_api/file={path}").text)
        answers.append(web.client.get(f"/gradio_api/file={outside}").text)
    assert not [text for text in answers if secret in text]
    copies = [
        file for file in (tmp_path / "scratch").rglob("*") if file.is_file() and secret in file.read_text("latin-1")
    ]
    assert not copies, "the file was copied to where it is served from"


def test_an_upload_is_computed_and_can_be_fetched_again(web):
    image = saved(Image.new("RGB", (64, 64), (200, 150, 200)), "PNG")
    (path,) = web.client.post("/gradio_api/upload", files={"files": ("mine.png", image, "image/png")}).json()
    assert web.client.get(f"/gradio_api/file={path}").content == image
    sent = {"data": [{"path": path, "meta": FILE_DATA}, None, 0.25], "fn_index": 0, "session_hash": "mine"}
    assert web.client.post("/gradio_api/queue/join", json=sent).status_code == 200
    assert "mine: " in events(web, "mine", 120)


def test_only_the_queue_computes_and_a_flood_of_direct_requests_hangs_nothing(web):
    functions = web.client.get("/config").json()["dependencies"]
    for function in functions:
        for sent in ({}, {"fn_index": function["id"]}, {"fn_index": str(function["id"])}, {"event_id": "x"}):
            body = {"data": [None] * len(function["inputs"]), "session_hash": "direct"} | sent
            status = web.client.post(f"/gradio_api/run/{function['api_name']}", json=body).status_code
            assert (status == 404) == function["queue"], function["api_name"]
    asked = {"data": [None, "Synthetic nuclei 1", 0.25]}
    with ThreadPoolExecutor(60) as pool:
        flood = [pool.submit(web.client.post, "/gradio_api/run/nuclei", json=asked, timeout=60) for _ in range(60)]
        for path in (HEALTH, "/nuclei", "/gradio_api/app_id"):
            assert web.client.get(path, timeout=10).status_code == 200
        assert Counter(answer.result().status_code for answer in flood) == {404: 60}


def test_the_health_check_answers_while_every_thread_is_busy(web, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr("dermatome.web.rois.annotated_slides", lambda root: let_go.wait(60) and [])
    (listing,) = [
        function["id"]
        for function in web.client.get("/config").json()["dependencies"]
        if function["api_name"] == "list_slides"
    ]
    try:
        for number in range(64):
            sent = {"data": [], "fn_index": listing, "session_hash": f"busy{number}"}
            web.client.post("/gradio_api/queue/join", json=sent)
        for _ in range(5):
            assert web.client.get(HEALTH, timeout=3).json() == {"status": "ok"}
    finally:
        let_go.set()


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
def test_other_sites_are_refused_and_get_no_permission_to_read(web, headers):
    for path in ("/", "/config", HEALTH, "/gradio_api/info"):
        answer = web.client.get(path, headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    asked = {"Access-Control-Request-Method": "POST"}
    answer = web.client.options("/gradio_api/queue/join", headers=headers | asked)
    assert answer.status_code in (403, 404)
    assert "access-control-allow-origin" not in answer.headers


def test_a_huge_body_is_refused_before_it_is_parsed(web):
    sent = json.dumps({"data": ["x" * (5 << 20), ""], "fn_index": 10, "session_hash": "huge"})
    assert web.client.post("/gradio_api/queue/join", content=sent).status_code == 413
    assert web.client.post("/gradio_api/upload", files={"files": bytes(2 << 20)}).status_code == 413


# --- uploads


def upload(client, data=b"x", name="a.png"):
    return client.post("/gradio_api/upload", files={"files": (name, data, "image/png")})


def test_a_browser_uploads_no_more_than_its_share_and_others_still_may(tmp_path):
    with served(tmp_path, limits=UploadLimits(max_uploads=3)) as web:
        browsers = [httpx.Client(base_url=web.address) for _ in range(2)]
        for browser in browsers:
            assert browser.get("/nuclei").status_code == 200
            assert "dermatome_browser" in browser.cookies
            assert "set-cookie" not in browser.get("/skin").headers
        assert [upload(browsers[0]).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert "try again later" in upload(browsers[0]).text
        assert upload(browsers[1]).status_code == 200
        # Who sends no cookie, or a made-up one, is known by the address.
        made_up = [httpx.Client(base_url=web.address, cookies={"dermatome_browser": str(n)}) for n in range(4)]
        assert [upload(client).status_code for client in made_up] == [200, 200, 200, 429]


def test_what_a_stranger_uploads_is_never_shown_as_a_page(web):
    client = httpx.Client(base_url=web.address)
    for name in ("a.html", "a.svg", "a.xhtml", "a.js"):
        (path,) = upload(client, b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", name).json()
        answer = client.get(f"/gradio_api/file={path}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"


# --- what is left behind


HOLDER = """
from dermatome.web.app import scratch_folder
with scratch_folder() as folder:
    print(folder.name, flush=True)
    input()
"""


def started(folder, *command, **options):
    """A Python process whose temporary folders lie in a folder."""
    environment = os.environ | {"TMPDIR": str(folder)}
    return subprocess.Popen([sys.executable, *command], cwd=CHECKOUT, env=environment, **options)


def test_an_app_deletes_its_temporary_folder_when_it_ends_and_those_of_killed_apps_when_it_starts(tmp_path):
    def scratch():
        return {path.name for path in tmp_path.glob("dermatome-web-*")}

    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        killed, living = (stack.enter_context(started(tmp_path, "-c", HOLDER, **pipes)) for _ in range(2))
        folders = [process.stdout.readline().strip() for process in (killed, living)]
        killed.kill()
        killed.wait()
        assert scratch() == set(folders)
        port, log = free_port(), stack.enter_context((tmp_path / "log").open("wb"))
        command = ("-m", "dermatome.cli.app", "web", "--data", str(tmp_path / "data"), "--port", str(port))
        app = stack.enter_context(started(tmp_path, *command, stdout=log, stderr=log))
        stack.callback(app.kill)
        client, until = stack.enter_context(requester(f"http://127.0.0.1:{port}")), time.monotonic() + 90
        while True:
            with contextlib.suppress(httpx.TransportError):
                assert client.get(HEALTH).status_code == 200
                break
            assert app.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert f"Dermatome's web app: http://127.0.0.1:{port} " in (tmp_path / "log").read_text()
        assert folders[1] in scratch(), "the folder of a living app is deleted"
        assert folders[0] not in scratch(), "what a killed app left is not deleted"
        assert upload(client).status_code == 200
        with client.stream("GET", "/gradio_api/heartbeat/open"):  # a page that is open
            app.terminate()
            assert app.wait(30) == 0
        assert scratch() == {folders[1]}
        living.communicate("\n")
        assert scratch() == set()


def test_cancelled_computations_do_not_pile_up(web, monkeypatch):
    let_go, before = threading.Event(), threading.active_count()
    monkeypatch.setattr("dermatome.web.nuclei.find_nuclei", lambda *_: let_go.wait(60))
    try:
        for number in range(48):
            session = f"cancelled{number}"
            sent = {"data": [None, "Synthetic nuclei 1", 0.25], "fn_index": 0, "session_hash": session}
            event = web.client.post("/gradio_api/queue/join", json=sent).json()["event_id"]
            time.sleep(0.1)
            cancelled = {"event_id": event, "session_hash": session, "fn_index": 0}
            web.client.post("/gradio_api/cancel", json=cancelled)
        assert threading.active_count() - before < 30, "each cancelled computation keeps a thread"
        assert web.client.get("/nuclei", timeout=10).status_code == 200
        names = {"data": [], "fn_index": 3, "session_hash": "note"}
        assert web.client.post("/gradio_api/queue/join", json=names).status_code == 200
        assert "Nuclei are found by" in events(web, "note")
    finally:
        let_go.set()
        until = time.monotonic() + 60
        while web.context.turns._threads._value < MAX_THREADS and time.monotonic() < until:
            time.sleep(0.1)


def test_only_the_site_that_is_named_may_show_the_app_in_a_frame(web, tmp_path):
    alone = web.client.get("/nuclei").headers
    assert {"default-src 'self'", "frame-ancestors 'none'"} <= set(alone["content-security-policy"].split("; "))
    assert alone["x-frame-options"] == "DENY"
    assert "samesite=strict" in alone["set-cookie"].lower()
    atlas = web.client.get("/atlas/slides").headers["content-security-policy"]
    assert atlas.startswith("default-src 'none'")
    assert atlas.endswith("frame-ancestors 'none'")
    with served(tmp_path, frame_site="https://huggingface.co") as framed:
        headers = framed.client.get("/nuclei").headers
    assert headers["content-security-policy"].endswith("frame-ancestors https://huggingface.co")
    assert "x-frame-options" not in headers
    assert {"samesite=none", "secure"} <= set(headers["set-cookie"].lower().split("; "))
