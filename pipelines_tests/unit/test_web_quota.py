"""How much a browser, and all together, may upload."""

import time

from dermatome.web.quota import COOKIE, Browsers, UploadQuota, swept_size
from dermatome.web.uploads import UploadLimits

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
