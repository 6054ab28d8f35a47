"""The table of where slides' images are."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from dermatome.errors import MissingInput, StorageFailed
from dermatome.slides.register import TABLE, read_sources, source_of, write_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.files import write_atomic


def source(slide, place="x"):
    return SlideSource(slide, "hpa", f"https://{place}/{slide}.jpg", "KRT14", "ENSG00000186847")


@pytest.fixture
def folder(root):
    return root.slide_sources


def test_what_was_written_is_read_back_and_the_latest_source_counts(folder):
    assert read_sources(folder) == {}
    write_sources(folder, [])
    assert not folder.exists()
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
