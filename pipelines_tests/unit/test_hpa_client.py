"""The HPA client against a server on this machine that misbehaves in the ways real hosts do."""

import gzip
import json
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from dermatome.errors import BadPage, BadSetting, FetchFailed
from dermatome.hpa.client import HpaClient
from dermatome.hpa.settings import HpaSettings
from dermatome.hpa.stage import fetch_gene_images, make_images
from dermatome.storage.files import sha256_bytes
from dermatome.storage.http import AllowedHosts, NotThere
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from pipelines_tests.faulty_hpa_server import Fault, FaultyHpaServer

GENE = "ENSG00000186081"
IMAGE = ToyImage("373", "1_A_1_2")
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 200


@pytest.fixture
def atlas():
    with FaultyHpaServer(images={IMAGE.path: JPEG}) as server:
        server.pages[GENE] = gene_page_xml("KRT5", GENE, server.url, [IMAGE])
        yield server


class Patient(HpaClient):
    """A client that notes how long it would have waited."""

    def __init__(self, settings):
        self.waits: list[float] = []
        super().__init__(settings, sleep=self.waits.append)


def client_of(atlas, **changes):
    changes = {"base_url": atlas.url, "archive_urls": (), "allowed_hosts": ("127.0.0.1",), "retries": 2, **changes}
    return Patient(HpaSettings(**changes))


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_page_and_an_image_arrive_whole(atlas, tmp_path):
    with client_of(atlas) as client:
        page = client.fetch_page(GENE, tmp_path / "g.xml")
        image = client.fetch_image(atlas.url + IMAGE.path, tmp_path / "deep" / "i.jpg")
    assert page.path.read_bytes() == atlas.pages[GENE]
    assert (page.changed, page.status, page.url) == (True, 200, f"{atlas.url}/{GENE}.xml")
    assert image.path.read_bytes() == JPEG
    assert (image.sha256, image.bytes) == (sha256_bytes(JPEG), len(JPEG))
    assert "dermatome" in atlas.requests[0].headers["User-Agent"]
    assert client.waits == []


def test_a_current_page_is_not_sent_again(atlas, tmp_path):
    client, path = client_of(atlas), tmp_path / "g.xml"
    first = client.fetch_page(GENE, path)
    again = client.fetch_page(GENE, path, first.validators)
    assert (again.status, again.changed, again.sha256) == (304, False, first.sha256)
    assert again.validators == first.validators
    assert client.fetch_page(GENE, path).changed is False
    atlas.pages[GENE] = gene_page_xml("KRT5", GENE, atlas.url, [IMAGE], release="24")
    assert client.fetch_page(GENE, path, first.validators).changed is True
    path.unlink()
    assert client.fetch_page(GENE, path, first.validators).status == 200


def test_a_gene_no_release_has_is_asked_for_once_everywhere(atlas, tmp_path):
    with FaultyHpaServer() as archive:
        client = client_of(atlas, archive_urls=(archive.url,))
        with pytest.raises(NotThere, match=r"unknown.*404"):
            client.fetch_page("ENSG00000000001", tmp_path / "g.xml")
        assert archive.count("/ENSG00000000001.xml") == atlas.count("/ENSG00000000001.xml") == 1
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("gene", ["KRT5", "ENSG1", "../x", "ENSG00000186081/../x", ""])
def test_an_id_that_is_none_is_not_asked_for(atlas, tmp_path, gene):
    with pytest.raises(FetchFailed, match="not an Ensembl gene id"):
        client_of(atlas).fetch_page(gene, tmp_path / "g.xml")
    assert atlas.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, times=2), Fault(status=503, times=1), Fault(status=429, times=2),
        Fault(close=True, times=2), Fault(reset=True, times=2), Fault(reset=True, truncate=20_000, times=2),
        Fault(drip_headers_s=0.01, times=1), Fault(truncate=1000, times=2), Fault(truncate=0, times=1),
        Fault(body=b"", times=1), Fault(delay_s=4, times=1),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again(atlas, tmp_path, fault):
    atlas.faults[IMAGE.path] = fault
    # Short only where waiting is what fails: a machine that stands still for a moment is no fault of the host.
    limits = {"timeout_s": 1.0, "total_timeout_s": 3.0} if fault.delay_s or fault.drip_headers_s else {}
    client = client_of(atlas, **limits)
    assert client.fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg").sha256 == sha256_bytes(JPEG)
    assert len(client.waits) == fault.times
    assert all(later > 0 for later in client.waits)


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        (Fault(status=500), "3 tries.*500", 3), (Fault(truncate=1000), "3 tries.*broke off after 3000 bytes", 3),
        (Fault(close=True), "3 tries", 3), (Fault(reset=True), "3 tries", 3),
        (Fault(headers=(("Retry-After", "3"),), status=503), "3 tries.*503", 3), (Fault(status=404), "not there", 1),
        (Fault(status=403), "answered 403", 1), (Fault(html=True), "web page", 1),
        (Fault(body=b"<html>log in</html>"), "web page", 1),
        (Fault(headers=(("Content-Type", "application/json"),)), "application/json, not an image", 1),
        (Fault(headers=(("Content-Length", "99999999999"),)), "larger than the limit", 1),
        (Fault(body=b"\xff" * 300_000), "larger than the limit", 1),
        (Fault(redirect="http://127.0.0.2:1/x"), "not allowed", 1),
        (Fault(redirect="http://10.0.0.1/x.jpg"), "not allowed", 1),
        (Fault(redirect="//169.254.169.254/latest/meta-data"), "not allowed", 1),
        (Fault(redirect="http://[::ffff:7f00:1]/x"), "not allowed", 1),
        (Fault(redirect="https://example.org/x.jpg"), "redirects to.*not allowed", 1),
        (Fault(redirect="file:///etc/passwd"), "not an http", 1),
        (Fault(redirect=IMAGE.path), "more than 5 times", 6),
    ],
)  # fmt: skip
def test_failures_say_what_happened_and_leave_the_old_file(atlas, tmp_path, fault, message, requests):
    (tmp_path / "i.jpg").write_bytes(b"old")
    atlas.faults[IMAGE.path] = fault
    with pytest.raises(FetchFailed, match=message) as caught:
        client_of(atlas, max_image_bytes=200_000).fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert "\n" not in str(caught.value)
    assert atlas.count(IMAGE.path) == requests
    assert files_in(tmp_path) == ["i.jpg"]
    assert (tmp_path / "i.jpg").read_bytes() == b"old"


@pytest.mark.parametrize("packed", [False, True])
def test_a_flood_is_streamed_and_cut_off_and_leaves_no_file(atlas, tmp_path, packed):
    body = gzip.compress(JPEG + bytes(500_000_000), 1) if packed else JPEG
    headers = (("Content-Encoding", "gzip"),) if packed else ()
    atlas.faults[IMAGE.path] = Fault(body=body, headers=headers, flood=0 if packed else 500_000_000)
    client = client_of(atlas, max_image_bytes=10_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(FetchFailed, match="larger than the limit of 10000000 bytes"):
            client.fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
    assert atlas.flooded < 100_000_000
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "headers", [(("Content-Length", "1000"),), (("Content-Length", "7, 8"),), (("Content-Length", "-3"),)]
)
def test_after_a_wrong_length_the_next_answer_is_right(atlas, tmp_path, headers):
    """Bytes beyond the stated length must not be taken for the next answer."""
    other = ToyImage("374", "2_A")
    atlas.images[other.path] = JPEG[::-1]
    atlas.faults[IMAGE.path] = Fault(headers=headers)
    client = client_of(atlas, timeout_s=0.3)
    with suppress(FetchFailed):
        cut = client.fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
        assert cut.path.read_bytes() in (JPEG, JPEG[:1000])
    got = client.fetch_image(atlas.url + other.path, tmp_path / "o.jpg")
    assert got.sha256 == sha256_bytes(JPEG[::-1])


@pytest.mark.parametrize("headers", [tuple((f"X-{n}", "x") for n in range(500)), (("X-Long", "x" * 100_000),)])
def test_headers_without_measure_fail_in_words(atlas, tmp_path, headers):
    atlas.faults[IMAGE.path] = Fault(headers=headers)
    with pytest.raises(FetchFailed) as caught:
        client_of(atlas).fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert "\n" not in str(caught.value)


def test_an_image_that_broke_off_is_resumed(atlas, tmp_path):
    half = len(JPEG) // 2
    atlas.faults[IMAGE.path] = Fault(truncate=half, times=1)
    got = client_of(atlas).fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert (got.bytes, got.sha256) == (len(JPEG), sha256_bytes(JPEG))
    first, second = (seen for seen in atlas.requests if seen.path == IMAGE.path)
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.status) == (f"bytes={half}-", 206)
    assert files_in(tmp_path) == ["i.jpg"]


def test_an_image_that_was_replaced_while_it_broke_off_is_fetched_anew(atlas, tmp_path):
    atlas.faults[IMAGE.path] = Fault(truncate=1000, times=1)
    other = JPEG[::-1]

    def replace_image(seconds):
        atlas.images[IMAGE.path] = other

    settings = client_of(atlas).settings
    with HpaClient(settings, sleep=replace_image) as client:
        got = client.fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert got.path.read_bytes() == other


def test_bytes_that_need_not_be_the_rest_are_never_joined(atlas, tmp_path):
    atlas.faults[IMAGE.path] = Fault(truncate=1000, headers=(("ETag", 'W/"weak"'),), times=1)
    got = client_of(atlas).fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert got.sha256 == sha256_bytes(JPEG)
    assert [seen.status for seen in atlas.requests if seen.path == IMAGE.path] == [200, 200]
    part = (("Content-Range", f"bytes 7-{len(JPEG) - 1}/{len(JPEG)}"),)
    atlas.faults[IMAGE.path] = Fault(status=206, headers=part)
    with pytest.raises(FetchFailed, match="206"):
        client_of(atlas).fetch_image(atlas.url + IMAGE.path, tmp_path / "other.jpg")
    assert files_in(tmp_path) == ["i.jpg"]


def test_a_packed_page_is_unpacked(atlas, tmp_path):
    packed = gzip.compress(atlas.pages[GENE])
    atlas.faults[f"/{GENE}.xml"] = Fault(body=packed, headers=(("Content-Encoding", "gzip"),))
    assert client_of(atlas).fetch_page(GENE, tmp_path / "g.xml").path.read_bytes() == atlas.pages[GENE]


@pytest.mark.parametrize(
    ("fault", "message"), [(Fault(drip_s=0.05), "not complete after 1 s"), (Fault(drip_headers_s=0.02), "1 try")]
)
def test_a_host_that_drips_cannot_outlast_the_limit(atlas, tmp_path, fault, message):
    atlas.faults[IMAGE.path] = fault
    began = time.monotonic()
    with pytest.raises(FetchFailed, match=message):
        client_of(atlas, total_timeout_s=1.0, retries=0).fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert time.monotonic() - began < 60
    assert files_in(tmp_path) == []


def test_a_host_that_is_not_there(tmp_path):
    with FaultyHpaServer() as gone:
        client = client_of(gone)
    with pytest.raises(FetchFailed, match=r"3 tries.*no connection"):
        client.fetch_page(GENE, tmp_path / "g.xml")


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("17", 17, 17),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True), 35, 40),
        ("86400", 60, 60),
        *((nonsense, 0.5, 1.5) for nonsense in ("0", "", "soon", "-5", "1e9", "Sun, 31 Dec 2023 00:00:00 GMT")),
    ],
)
def test_what_the_host_asks_to_wait_is_waited_up_to_the_limit(atlas, tmp_path, header, least, most):
    client = client_of(atlas, max_wait_s=60)
    headers = (("Retry-After", header() if callable(header) else header),)
    atlas.faults[IMAGE.path] = Fault(status=503, headers=headers, times=1)
    client.fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    assert least <= client.waits[0] <= most


def test_waits_double_with_jitter_up_to_the_limit(atlas, tmp_path):
    atlas.faults[IMAGE.path] = Fault(status=503)
    client = client_of(atlas, retries=6, max_wait_s=10)
    with pytest.raises(FetchFailed, match="7 tries"):
        client.fetch_image(atlas.url + IMAGE.path, tmp_path / "i.jpg")
    bounds = [(min(10, 0.5 * 2**attempt), min(10, 1.5 * 2**attempt)) for attempt in range(6)]
    assert all(low <= wait <= high for wait, (low, high) in zip(client.waits, bounds, strict=True))
    assert client.waits[:3] != [1, 2, 4]


def test_redirects_within_the_allowed_hosts_are_followed(atlas, tmp_path):
    atlas.faults["/images/373/old.jpg"] = Fault(redirect=IMAGE.path)
    got = client_of(atlas).fetch_image(f"{atlas.url}/images/373/old.jpg", tmp_path / "i.jpg")
    assert (got.url, got.sha256) == (atlas.url + IMAGE.path, sha256_bytes(JPEG))


def test_only_so_many_requests_at_once_over_all_threads(atlas, tmp_path):
    atlas.faults[IMAGE.path] = Fault(delay_s=0.05)
    client = client_of(atlas, at_once=3)
    start = threading.Barrier(12)

    def fetch(number):
        start.wait()
        client.fetch_image(atlas.url + IMAGE.path, tmp_path / f"{number}.jpg")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(fetch, range(12)))
    assert atlas.most_at_once == 3
    assert len(files_in(tmp_path)) == 12


def test_a_proxy_does_not_stand_before_this_machine(atlas, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert client_of(atlas).fetch_page(GENE, tmp_path / "g.xml").status == 200


HPA = AllowedHosts([".proteinatlas.org"])


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://www.proteinatlas.org/ENSG1.xml", "https://www.proteinatlas.org/ENSG1.xml"),
        ("http://v18.proteinatlas.org/images/1/2.jpg", "https://v18.proteinatlas.org/images/1/2.jpg"),
        ("http://images.proteinatlas.org:80/1/2.jpg", "https://images.proteinatlas.org/1/2.jpg"),
        ("https://proteinatlas.org:443/x", "https://proteinatlas.org:443/x"),
        ("HTTP://V18.ProteinAtlas.org/x", "https://v18.proteinatlas.org/x"),
    ],
)
def test_addresses_that_may_be_asked(url, asked):
    assert HPA.checked(url) == asked


@pytest.mark.parametrize(
    "url",
    [
        "https://proteinatlas.org.evil.example/x", "https://evilproteinatlas.org/x",
        "https://www.proteinatlas.org@evil.example/x", "https://user:pass@www.proteinatlas.org/x",
        "https://evil.example\\@www.proteinatlas.org/x", "https://www.proteinatlas.org:22/x", "http://127.0.0.1/x",
        "http://[::1]/x", "http://localhost:3000/x", "http://169.254.169.254/latest/meta-data",
        "ftp://www.proteinatlas.org/x", "file:///etc/passwd", "https:///x", "//www.proteinatlas.org/x",
        "https://www.proteinatlas.org/a\r\nHost: evil", "https://www.proteinatlas.org:99999/x",
        "https://[www.proteinatlas.org/x", "",
    ],
)  # fmt: skip
def test_addresses_that_may_not(url):
    with pytest.raises(FetchFailed):
        HPA.checked(url)


def test_another_host_may_not_redirect_to_this_machine():
    both = AllowedHosts([".proteinatlas.org", "127.0.0.1"])
    assert both.checked("http://127.0.0.1:80/x") == "http://127.0.0.1:80/x"
    with pytest.raises(FetchFailed, match="this machine itself"):
        both.checked("http://127.0.0.1:80/x", came_from="https://www.proteinatlas.org/x")


def test_a_port_may_be_allowed_by_name():
    assert AllowedHosts(["mirror.example:8443"]).checked("https://mirror.example:8443/x")
    with pytest.raises(FetchFailed):
        AllowedHosts(["mirror.example:8443"]).checked("https://mirror.example/x")


@pytest.mark.parametrize(
    "changes",
    [
        {"at_once": 0}, {"at_once": 99}, {"retries": -1}, {"timeout_s": 0}, {"timeout_s": float("nan")},
        {"allowed_hosts": ()}, {"allowed_hosts": (".",)}, {"allowed_hosts": ("*",)},
        {"allowed_hosts": ("https://www.proteinatlas.org",)}, {"base_url": "https://example.org"},
        {"archive_urls": ("ftp://v19.proteinatlas.org",)},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(changes):
    with pytest.raises(BadSetting):
        HpaClient(HpaSettings(**changes))


def test_images_a_page_no_longer_shows_come_from_the_archive(atlas, tmp_path):
    shown, gone = ToyImage("1", "1_A", antibody="HPA1"), ToyImage("2", "2_A", antibody="HPA2")
    atlas.pages[GENE] = gene_page_xml("KRT5", GENE, "https://new", [shown], blank=[gone], reliability="enhanced")
    old = gene_page_xml("KRT5", GENE, "https://old", [shown, gone], release="19")
    with FaultyHpaServer({GENE: old}) as archive:
        client = client_of(atlas, archive_urls=(archive.url,))
        found, fetched = fetch_gene_images(client, GENE, tmp_path / "g.xml")
        again, checked = fetch_gene_images(client, GENE, tmp_path / "g.xml", validators=fetched[0].validators)
    rows = [(row["image_url"], row["release"]) for row in found.records.to_pylist()]
    assert rows == [("https://new/images/1/1_A.jpg", "23"), ("https://old/images/2/2_A.jpg", "19")]
    assert "1 of them from an archive" in found.message
    assert found.antibodies_without_images == ()
    assert [[one.changed for one in read] for read in (fetched, checked)] == [[True, True], [False, False]]
    assert again.records == found.records


def test_no_archive_is_asked_where_the_page_shows_all_or_has_no_such_tissue(atlas, tmp_path):
    with FaultyHpaServer() as archive:
        client = client_of(atlas, archive_urls=(archive.url,))
        assert fetch_gene_images(client, GENE, tmp_path / "g.xml")[0].outcome == "images"
        assert fetch_gene_images(client, GENE, tmp_path / "g.xml", tissue="Lung")[0].outcome == "no_tissue"
        assert archive.requests == []


def test_a_page_of_another_gene_is_refused(atlas, tmp_path):
    atlas.pages["ENSG00000000001"] = atlas.pages[GENE]
    with pytest.raises(BadPage, match=f"page of {GENE}"):
        fetch_gene_images(client_of(atlas), "ENSG00000000001", tmp_path / "g.xml")


# --- the stage `hpa_images`


def read_stage(folder, site, *archives):
    urls = tuple(archive.url for archive in archives)
    settings = HpaSettings(base_url=site.url, archive_urls=urls, allowed_hosts=("127.0.0.1",), retries=0)
    with HpaClient(settings) as client:
        return make_images(client, GENE, folder / f"{GENE}.xml", folder / "made", "Skin")


def validators_sent(site):
    return bool({"If-None-Match", "If-Modified-Since"} & set(site.requests[-1].headers))


def test_a_page_of_the_same_site_is_not_sent_again_and_validators_of_another_site_are_not_sent(atlas, tmp_path):
    read_stage(tmp_path, atlas)
    with FaultyHpaServer(pages=dict(atlas.pages)) as other:
        first = read_stage(tmp_path, other)
        assert not validators_sent(other)
        again = read_stage(tmp_path, other)
    assert (first.values["http_status"], again.values["http_status"]) == (200, 304)
    assert again.data_version == first.data_version


def test_validators_of_an_archives_page_are_not_sent(atlas, tmp_path):
    with FaultyHpaServer() as site:
        read_stage(tmp_path, site, atlas)
        site.pages[GENE] = atlas.pages[GENE]
        assert read_stage(tmp_path, site, atlas).values["http_status"] == 200
        assert not validators_sent(site)


def test_validators_of_another_page_are_not_sent(atlas, tmp_path):
    read_stage(tmp_path, atlas)
    # As when a run is killed between the page of another site and the note of it.
    (tmp_path / f"{GENE}.xml").write_bytes(atlas.pages[GENE].replace(b"KRT5", b"KRT6"))
    assert read_stage(tmp_path, atlas).values["gene"] == "KRT5"


@pytest.mark.parametrize("noted", [b"", b"[]", json.dumps({"etag": "x"}).encode()])
def test_notes_that_cannot_be_used_are_left_aside(atlas, tmp_path, noted):
    read_stage(tmp_path, atlas)
    (tmp_path / f"{GENE}.json").write_bytes(noted)
    assert read_stage(tmp_path, atlas).values["http_status"] == 200
    assert not validators_sent(atlas)
