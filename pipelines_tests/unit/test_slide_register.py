"""Tables of where slides' images are."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from dermatome.errors import MissingInput, StorageFailed
from dermatome.slides import register as slide_register
from dermatome.slides.register import read_sources, source_of, write_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.files import names_in, write_atomic
from dermatome.storage.record import write_table


def source(slide, place="x"):
    return SlideSource(slide, "hpa", f"https://{place}/{slide}.jpg", "KRT14", "ENSG00000186847")


@pytest.fixture
def folder(root):
    return root.slide_sources


@pytest.fixture
def few_tables(monkeypatch):
    monkeypatch.setattr(slide_register, "_TABLES", 3)


def test_what_was_written_is_read_back(folder):
    assert read_sources(folder) == {}
    write_sources(folder, [source("a"), source("b"), SlideSource("c", "folder", "/inbox/c.jpg")])
    assert len(names_in(folder)) == 1, "one file for one call, however many slides"
    assert read_sources(folder)["a"] == source("a")
    assert read_sources(folder, ["c", "unknown"]) == {"c": SlideSource("c", "folder", "/inbox/c.jpg")}
    write_sources(folder, [])
    assert len(names_in(folder)) == 1


def test_the_latest_counts_and_the_others_stay(folder):
    write_sources(folder, [source("a"), source("b")])
    write_sources(folder, [source("b", "y"), source("b", "z")])
    assert read_sources(folder) == {"a": source("a"), "b": source("b", "z")}


def test_many_tables_become_one(folder, few_tables):
    for number in range(4):
        write_sources(folder, [source(f"s{number}"), source("moving", str(number))])
    assert len(names_in(folder)) == 1
    write_sources(folder, [source("moving", "last")])
    expected = {f"s{number}": source(f"s{number}") for number in range(4)} | {"moving": source("moving", "last")}
    assert read_sources(folder) == expected


def test_a_process_killed_while_tables_become_one_loses_nothing(folder, few_tables, monkeypatch):
    def killed(path, **_):
        raise KeyboardInterrupt

    for number in range(3):
        write_sources(folder, [source(f"s{number}"), source("moving", str(number))])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            write_sources(folder, [source("s3"), source("moving", "3")])
    expected = {f"s{number}": source(f"s{number}") for number in range(4)} | {"moving": source("moving", "3")}
    assert read_sources(folder) == expected
    write_sources(folder, [source("s4")])
    assert read_sources(folder) == expected | {"s4": source("s4")}


def test_several_at_once_lose_nothing(folder, few_tables):
    def register(number):
        for part in range(2):
            write_sources(folder, [source(f"s{number}-{part}")])
            assert f"s{number}-{part}" in read_sources(folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, range(4)))
    assert set(read_sources(folder)) == {f"s{number}-{part}" for number in range(4) for part in range(2)}


def test_two_that_put_tables_together_lose_nothing_that_came_between(folder, few_tables, monkeypatch):
    for number in range(3):
        write_sources(folder, [source(f"s{number}")])
    read = slide_register._read

    def slowly(path):
        found = read(path)
        monkeypatch.setattr(slide_register, "_read", read)
        rows = pa.Table.from_pylist([vars(source("between"))], slide_register._SCHEMA)
        write_table(folder / "00000001-00000000.parquet", rows)  # its number was drawn before the others were there
        slide_register._put_together(folder)
        return found

    monkeypatch.setattr(slide_register, "_read", slowly)
    slide_register._put_together(folder)
    assert set(read_sources(folder)) == {"s0", "s1", "s2", "between"}


def test_a_table_that_goes_while_it_is_read_is_looked_for_in_a_later_one(folder, few_tables, monkeypatch):
    for number in range(3):
        write_sources(folder, [source(f"s{number}")])
    listed = slide_register._tables(folder)
    write_sources(folder, [source("s3")])
    listings = iter([listed])
    tables = slide_register._tables
    monkeypatch.setattr(slide_register, "_tables", lambda path: next(listings, None) or tables(path))
    assert len(read_sources(folder)) == 4


def test_tables_that_never_stay_are_an_error(folder, monkeypatch):
    monkeypatch.setattr(slide_register, "_tables", lambda path: ["00000001-00000000.parquet"])
    with pytest.raises(StorageFailed, match="replaced faster than they can be read"):
        read_sources(folder)


def test_a_slide_nobody_registered_and_a_damaged_table_say_what_to_do(folder):
    write_atomic(folder / "a.json", b"{}")  # as an earlier version wrote it
    with pytest.raises(MissingInput, match="Nobody has said where the image of a is: put its file into the inbox"):
        source_of("a", read_sources(folder))
    write_sources(folder, [source("a")])
    assert source_of("a", read_sources(folder)) == source("a")
    (name,) = [name for name in names_in(folder) if name.endswith(".parquet")]
    write_atomic(folder / name, b"PAR1 and no more")
    with pytest.raises(StorageFailed, match=r"damaged .* delete it"):
        read_sources(folder)
    (folder / name).unlink(missing_ok=True)
    assert read_sources(folder) == {}
