"""Images of slides acquired, verified and opened again, and the table of where they are."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from dermatome.errors import BadImage, FetchFailed, MissingInput, StorageFailed
from dermatome.hpa.client import HpaClient
from dermatome.hpa.settings import HpaSettings
from dermatome.slides.register import TABLE, read_sources, source_of, write_sources
from dermatome.slides.source import SlideSource, acquire_slide, inbox_sources, open_slide
from dermatome.storage.files import atomic_folder, write_atomic
from dermatome.storage.record import write_record
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.bad_images import saved
from pipelines_tests.faulty_hpa_server import Fault, FaultyHpaServer
from pipelines_tests.records import record_of

PATH, TIFF = "/images/1/a.jpg", "/images/1/a.tif"


@pytest.fixture(scope="module")
def jpeg():
    return toy_slide(3, size_px=120).jpeg()


@pytest.fixture
def atlas(jpeg):
    with FaultyHpaServer(images={PATH: jpeg}) as server:
        yield server


def client(atlas):
    return HpaClient(HpaSettings(base_url=atlas.url, archive_urls=(), allowed_hosts=("127.0.0.1",), retries=0))


def acquire(atlas, tmp_path, source=None, mpp=0.5, max_side_px=1000, lossless=False):
    """As the asset does it: into a new folder that takes the place of the old one, its record beside."""
    place = tmp_path / "slide"
    source = source or SlideSource("s", "hpa", f"{atlas.url}{PATH}")
    with atomic_folder(place) as folder:
        fetch = client(atlas).fetch_image
        made = acquire_slide(source, folder, mpp, max_side_px, fetch_image=fetch, lossless=lossless, kept=place)
        write_record(folder / "record.json", record_of("a", "s", **vars(made)))
    return place, made


def test_an_image_is_fetched_verified_and_opened_again(atlas, tmp_path, jpeg):
    place, made = acquire(atlas, tmp_path)
    assert (place / "image.jpg").read_bytes() == jpeg
    assert made.values["mpp_source"] == "declared"
    assert made.checks[0].passed
    slide = open_slide(place, "s", made.values)
    assert slide.sha256 == made.values["image_sha256"]


def test_another_scale_is_another_version_and_no_new_download(atlas, tmp_path):
    _, first = acquire(atlas, tmp_path)
    _, second = acquire(atlas, tmp_path, mpp=0.25)
    assert first.data_version != second.data_version
    assert atlas.count(PATH) == 1


def test_the_lossless_original_is_taken_where_there_is_one_and_recorded(atlas, tmp_path):
    place, made = acquire(atlas, tmp_path, lossless=True)
    assert (made.values["file"], made.values["location"]) == ("image.jpg", f"{atlas.url}{PATH}"), "there is no TIFF"
    toy = toy_slide(3, size_px=120)
    atlas.images[TIFF] = saved(Image.fromarray(toy.slide.whole()), "TIFF", compression="tiff_lzw")
    place, made = acquire(atlas, tmp_path, lossless=True)
    assert (made.values["file"], made.values["location"]) == ("image.tif", f"{atlas.url}{TIFF}")
    assert (open_slide(place, "s", made.values).whole() == toy.slide.whole()).all()
    assert not (place / "image.jpg").exists()
    acquire(atlas, tmp_path, lossless=True)
    assert atlas.count(TIFF) == 2, "the verified file is not fetched again"
    _, made = acquire(atlas, tmp_path)
    assert made.values["file"] == "image.jpg"
    atlas.faults[TIFF] = Fault(status=503)
    with pytest.raises(FetchFailed, match="1 try"):
        acquire(atlas, tmp_path, lossless=True)  # a JPEG would be another image, taken without notice


def test_a_harmed_image_is_noticed_and_fetched_again(atlas, tmp_path):
    place, made = acquire(atlas, tmp_path)
    (place / "image.jpg").write_bytes(toy_slide(4, size_px=120).jpeg())
    with pytest.raises(BadImage, match="not the one that was verified"):
        open_slide(place, "s", made.values)
    acquire(atlas, tmp_path)
    assert atlas.count(PATH) == 2
    (place / "record.json").write_bytes(b"torn")
    acquire(atlas, tmp_path)
    assert atlas.count(PATH) == 3


def test_a_blank_image_fails_its_check(atlas, tmp_path):
    white = tmp_path / "white.png"
    Image.new("RGB", (64, 64), "white").save(white)
    _, made = acquire(atlas, tmp_path, SlideSource("s", "folder", str(white)))
    assert not made.checks[0].passed


def test_a_replaced_file_of_a_folder_is_another_source(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (source,) = inbox_sources(tmp_path).values()
    before = source.identity
    assert source.identity == before
    (tmp_path / "a.jpg").write_bytes(jpeg + b"\0")
    assert source.identity != before
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(MissingInput, match="There is no file"):
        _ = source.identity


@pytest.mark.parametrize("data", [b"", b"<html>no</html>", b"\xff\xd8\xff\xe0 cut"])
def test_a_bad_image_says_where_it_came_from(atlas, tmp_path, data):
    bad = write_atomic(tmp_path / "bad.jpg", data)
    with pytest.raises(BadImage, match=r"It came from .*bad\.jpg"):
        acquire(atlas, tmp_path, SlideSource("s", "folder", str(bad)))
    assert not (tmp_path / "slide").exists()


def test_an_unknown_suffix_is_refused(atlas, tmp_path):
    with pytest.raises(BadImage, match=r"suffix '\.gif'"):
        acquire(atlas, tmp_path, SlideSource("s", "hpa", f"{atlas.url}/images/1/a.gif"))


def source(slide, place="x"):
    return SlideSource(slide, "hpa", f"https://{place}/{slide}.jpg", "KRT14", "ENSG00000186847")


@pytest.fixture
def folder(root):
    return root.slide_sources


def test_what_was_written_is_read_back_and_the_latest_source_counts(folder):
    assert read_sources(folder) == {}
    write_sources(folder, [])
    assert not folder.exists()
    write_atomic(folder, b"a file in the place of the folder")
    with pytest.raises(StorageFailed, match="check the permissions of the folder"):
        write_sources(folder, [source("a")])
    folder.unlink()
    write_sources(folder, [source("a"), source("b"), SlideSource("c", "folder", "/inbox/c.jpg")])
    assert [path.name for path in folder.iterdir()] == [TABLE], "one file, however many slides"
    assert read_sources(folder, ["c", "unknown"]) == {"c": SlideSource("c", "folder", "/inbox/c.jpg")}
    write_sources(folder, [source("b", "y"), source("b", "z")])
    assert read_sources(folder, ["a", "b"]) == {"a": source("a"), "b": source("b", "z")}


def test_several_at_once_lose_nothing(folder):
    def register(number):
        for part in range(2):
            write_sources(folder, [source(f"s{number}-{part}")])
            assert f"s{number}-{part}" in read_sources(folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, range(4)))
    assert set(read_sources(folder)) == {f"s{number}-{part}" for number in range(4) for part in range(2)}


def test_an_unregistered_slide_and_a_damaged_table_say_what_to_do(folder):
    with pytest.raises(MissingInput, match="image of a is not registered: put its file into the inbox"):
        source_of("a", read_sources(folder))
    write_sources(folder, [source("a")])
    assert source_of("a", read_sources(folder)) == source("a")
    write_atomic(folder / TABLE, b"PAR1 and no more")
    with pytest.raises(StorageFailed, match=r"damaged .* delete it"):
        read_sources(folder)
