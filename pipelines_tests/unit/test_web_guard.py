"""Which requests the guards in front of the web app refuse, without a server."""

import asyncio
import json
import time

import pytest

from dermatome.web.guard import SiteGuard
from dermatome.web.payloads import API, FILE, JOIN, MAX_JSON_BYTES, UPLOAD, PayloadGuard
from dermatome.web.quota import COOKIE, Browsers, UploadQuota, swept_size
from dermatome.web.uploads import UploadLimits

FOREIGN = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


def call(guard, method="GET", path="/", headers=None, body=b"", kind="http", query=b"", parts=None):
    """Status of the response; 200 is that of the guarded app, which returns the body it read."""
    named = {"host": "127.0.0.1:7860"} | (headers or {})
    scope = {
        "type": kind, "method": method, "path": path, "query_string": query,
        "headers": [(key.encode(), value.encode()) for key, value in named.items() if value is not None],
    }  # fmt: skip
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts or [body]]
    waiting[-1]["more_body"] = False
    sent = []

    async def receive():
        return waiting.pop(0) if kind == "http" else {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0].get("status", sent[0]["type"]), sent[-1].get("body")


async def echo(scope, receive, send):
    body = b""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    if scope["method"] == "POST":
        body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


# --- sites


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:7860", 200), ("lab.example:80", 200),
        ("[fd00::5]", 200), ("evil.example", 403), ("evil.example:7860", 403), ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403), ("lab.example.evil", 403), ("", 403), (None, 403), ("[::1", 403),
    ],
)  # fmt: skip
def test_only_trusted_host_names_are_served(host, status):
    assert call(SiteGuard(echo, ["Lab.example", "fd00::5"]), headers={"host": host})[0] == status


CROSS = {"sec-fetch-site": "cross-site"}
OPENED = CROSS | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FRAME = OPENED | {"sec-fetch-dest": "iframe"}


@pytest.mark.parametrize(
    ("headers", "alone", "framed"),
    [
        ({}, 200, 200), ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}, 200, 200),
        ({"sec-fetch-site": "none"}, 200, 200), (CROSS, 403, 403), ({"sec-fetch-site": "same-site"}, 403, 403),
        ({"origin": "http://evil.example"}, 403, 403), ({"origin": "http://127.0.0.1:8888"}, 403, 403),
        ({"origin": "http://127.0.0.1:7860.evil.example"}, 403, 403), ({"origin": "null"}, 403, 403),
        ({"origin": "http://[::1"}, 403, 403), (OPENED, 200, 200), (FRAME, 403, 200),
        (FRAME | {"sec-fetch-dest": "script", "sec-fetch-mode": "no-cors"}, 403, 403),
        (CROSS | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403, 403),
    ],
)  # fmt: skip
def test_of_other_sites_only_links_are_served_and_frames_where_they_are_allowed(headers, alone, framed):
    assert call(SiteGuard(echo), headers=headers)[0] == alone
    assert call(SiteGuard(echo, framed=True), headers=headers)[0] == framed
    if "cross-site" in headers.values():
        assert call(SiteGuard(echo, framed=True), "POST", headers=headers)[0] == 403, "a form that opens a page"


def test_a_web_socket_of_another_site_is_closed_before_it_is_accepted():
    guard = SiteGuard(echo)
    assert call(guard, kind="websocket")[0] == "websocket.accept"
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}, CROSS):
        assert call(guard, kind="websocket", headers=headers)[0] == "websocket.close"


# --- payloads


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"s")
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


@pytest.fixture
def guard(folder):
    """A guard of one function whose first input is a file."""
    quota = UploadQuota(folder, UploadLimits(max_uploads=2), 3600)
    return PayloadGuard(
        echo, frozenset({"/"}), ("/atlas/",), frozenset({"/save"}), {0: frozenset({0})}, 1000, Browsers(), quota
    )


def uploaded(path):
    return {"path": str(path), "url": f"http://127.0.0.1:7860{FILE}{path}", "meta": {"_type": "gradio.FileData"}}


def post(guard, body, path=JOIN):
    return call(guard, "POST", path, body=body if isinstance(body, bytes) else json.dumps(body).encode())[0]


def test_an_upload_is_accepted_for_a_file_component_and_passed_on_unchanged(guard, folder):
    body = json.dumps({"data": [uploaded(folder / "a.png"), "x", 0.5], "fn_index": 0}).encode()
    assert call(guard, "POST", JOIN, body=body) == (200, body)
    assert call(guard, "POST", JOIN, parts=[body[:9], body[9:]]) == (200, body)
    assert post(guard, {"data": [[uploaded(folder / "a.png")], "x", 0.5], "fn_index": 0}) == 200
    assert post(guard, {"data": [None, "/etc/passwd", 0.5], "fn_index": 0}) == 200


@pytest.mark.parametrize(
    "bad",
    [
        FOREIGN, {"path": "/etc/passwd"}, {"url": "http://evil.example/x"}, {"meta": {"_type": "gradio.FileData"}},
        {"path": "uploads/../secret"}, "/etc/passwd", ["/etc/passwd"], [[FOREIGN]], {"value": FOREIGN},
    ],
)  # fmt: skip
def test_for_a_file_component_only_uploads_are_accepted(guard, bad):
    assert post(guard, {"data": [bad, "x", 0.5], "fn_index": 0}) == 403


def test_an_upload_with_something_more_is_refused(guard, folder):
    for more in (
        {"url": "http://evil.example/a.png"}, {"is_stream": True}, {"orig_name": FOREIGN}, {"more": 1},
        {"meta": {"_type": "gradio.FileData", "path": "/etc/passwd"}}, {"path": str(folder / "link")},
        {"path": str(folder / ".." / "secret")}, {"path": str(folder)}, {"path": "a\0b"}, {"path": "x" * 5000},
        {"path": 7},
    ):  # fmt: skip
        assert post(guard, {"data": [uploaded(folder / "a.png") | more], "fn_index": 0}) == 403, more


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": [{"b": v}]}, lambda v: {"value": v}])
def test_no_other_place_may_name_a_file(guard, folder, wrap):
    mine = wrap(uploaded(folder / "a.png"))
    assert post(guard, {"data": [None, mine], "fn_index": 0}) == 403
    assert post(guard, {"data": [None], "fn_index": 0, "event_data": mine}) == 403
    assert post(guard, {"data": [mine], "fn_index": 1}) == 403
    assert post(guard, {"data": [mine], "fn_index": "0"}) == 403
    assert post(guard, {"data": [mine], "fn_index": 0}, f"{API}/run/nuclei") == 403
    assert post(guard, {"data": {"0": mine}, "fn_index": 0}) == 403


def test_what_is_refused_in_the_queue_is_told_to_who_waits_for_it(guard):
    ask = {"data": [FOREIGN], "fn_index": 0, "session_hash": "s"}
    assert post(guard, ask) == 403
    told = call(guard, path=f"{API}/queue/data", query=b"session_hash=s")[1]
    assert b"process_completed" in told
    assert b"upload the file again" in told
    assert call(guard, path=f"{API}/queue/data", query=b"session_hash=s")[1] == b""
    post(guard, ask)
    post(guard, ask | {"data": [None]})
    assert call(guard, path=f"{API}/queue/data", query=b"session_hash=s")[1] == b""
    for number in range(100):
        post(guard, ask | {"session_hash": f"s{number}"})
    assert len(guard._refused) == 64


def test_bodies_are_bounded_and_must_be_json_objects(guard):
    assert post(guard, b'{"data": ["' + b"x" * MAX_JSON_BYTES + b'"]}') == 413
    part = bytes(1 << 20)
    assert call(guard, "POST", JOIN, parts=[part] * 5)[0] == 413
    assert call(guard, "POST", JOIN, headers={"content-length": str(MAX_JSON_BYTES + 1)})[0] == 413
    assert call(guard, "POST", UPLOAD, headers={"content-length": "1001"})[0] == 413
    assert [call(guard, "POST", UPLOAD, headers={"content-length": "1000"})[0] for _ in range(3)] == [200, 200, 429]
    assert call(guard, "POST", UPLOAD)[0] == 411
    for body in (b"", b"[]", b"no", b"[" * 100_000, b'{"a":' * 100_000):
        assert post(guard, body) == 400


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_are_not_finite_are_refused(guard, number):
    for body in (f'{{"data": [{number}]}}', f'{{"data": [1], "fn_index": {number}}}'):
        assert guard._refused_body(JOIN, body.encode()).status == 400


def test_only_routes_that_pages_need_are_open(guard, folder):
    for path in ("/", "/atlas/slides", "/config", f"{API}/info", "/assets/index.js", f"{FILE}{folder / 'a.png'}"):
        assert call(guard, path=path)[0] == 200
    for path in (f"{API}/vibe-code", f"{API}/proxy=http://x", f"{API}/dev/reload", "/login", "/docs"):
        assert call(guard, path=path)[0] == 404
    for path in ("/etc/passwd", "http://evil.example/", str(folder / "link"), str(folder), f"{folder}/../secret"):
        assert call(guard, path=f"{FILE}{path}")[0] == 403
    for path in ("call/nuclei", "call/v2/nuclei", "api/nuclei", "component_server", "process_recording", "vibe-edit"):
        assert post(guard, {"data": []}, f"{API}/{path}") == 404
    assert call(guard, "PUT", "/")[0] == 404
    assert call(guard, kind="websocket")[0] == "websocket.close"


LIMITS = UploadLimits(max_uploads=3, max_bytes=100, max_total_bytes=150)


def scope(cookie="", client="10.0.0.1"):
    return {"type": "http", "headers": [(b"cookie", cookie.encode())] if cookie else [], "client": (client, 1)}


def test_a_browser_is_known_by_a_cookie_that_only_this_app_issues():
    browsers, others = Browsers(), Browsers()
    cookie = browsers.new_cookie()
    name = browsers.known(scope(f"a=b; {COOKIE}={cookie}; c=d"))
    assert name == cookie.partition(".")[0]
    for bad in ("", "x", f"{name}.", f"{name}.00", f"x{cookie}", others.new_cookie(), ".", "é.é"):
        assert browsers.known(scope(f"{COOKIE}={bad}")) is None
    assert browsers.of(scope("bad")) == browsers.of(scope()) != browsers.of(scope(client="10.0.0.2"))


def test_a_browser_uploads_so_many_images_and_bytes_within_the_time(tmp_path):
    now = [time.time()]
    quota = UploadQuota(tmp_path, LIMITS, 3600, lambda: now[0])

    def admit(browser, size):
        refused = quota.admit(browser, size)
        if refused is None:
            quota.release(size)
        return refused

    assert [admit("a", 10) for _ in range(3)] == [None] * 3
    assert "try again later" in admit("a", 10)
    assert admit("b", 60) is None
    assert "3 images or 0 MB" in admit("b", 41)
    assert admit("b", 40) is None
    now[0] += 3601
    assert admit("a", 10) is None
    assert set(quota._admitted) == {"a"}


def test_all_together_are_bounded_by_what_lies_on_disk_and_what_is_coming(tmp_path):
    quota = UploadQuota(tmp_path / "uploads", LIMITS, 3600)
    assert quota.admit("a", 90) is None
    assert "as many uploads as it may" in quota.admit("b", 90), "what is still coming does not count"
    quota.release(90)
    assert quota.admit("b", 90) is None
    quota.release(90)
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "file").write_bytes(bytes(140))
    assert "as many uploads as it may" in quota.admit("c", 20), "what lies on disk does not count"


def test_files_are_bounded_in_number_too(tmp_path, monkeypatch):
    monkeypatch.setattr("dermatome.web.quota.MAX_FILES", 2)
    quota = UploadQuota(tmp_path, LIMITS, 3600)
    for name in ("1", "2"):
        assert quota.admit(name, 1) is None
        (tmp_path / name).touch()
    assert "as many uploads as it may" in quota.admit("3", 1)


def test_old_files_and_empty_folders_are_swept(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "old").write_bytes(b"123")
    (tmp_path / "tmp123").write_bytes(b"12345")  # of an upload that was interrupted
    (tmp_path / "link").symlink_to("/")
    now = time.time()
    assert swept_size(tmp_path, 60, now)[0] == 3
    assert swept_size(tmp_path, 60, now + 120) == (0, 0)
    assert not list(tmp_path.iterdir())
    assert swept_size(tmp_path / "missing", 60, now) == (0, 0)
