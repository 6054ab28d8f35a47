import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage import files
from dermatome.storage.files import (
    atomic_file,
    atomic_folder,
    read_bytes,
    safe_id,
    sha256_bytes,
    sha256_file,
    write_atomic,
)
from dermatome.storage.layout import DataRoot


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "a\\b", "-a", ".hidden", "a b", "é", "a" * 201, "a\n"])
def test_an_id_that_could_leave_its_folder_is_refused(bad):
    with pytest.raises(StorageFailed, match="not usable as a file name"):
        safe_id(bad)


@given(st.text(max_size=40))
def test_an_accepted_id_stays_inside_its_folder(text):
    root = Path("/data/slides")
    try:
        name = safe_id(text)
    except StorageFailed:
        return
    assert (root / name).resolve().parent == root
    assert name == text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.bin"
    with pytest.raises(RuntimeError), atomic_file(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    write_atomic(target, b"first")
    with pytest.raises(RuntimeError), atomic_file(target) as file:
        file.write(b"second")
        raise RuntimeError
    assert target.read_bytes() == b"first"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="No space left.*free or enlarge the disk"):
        write_atomic(tmp_path / "file.bin", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageFailed):
        write_atomic(tmp_path / "taken" / "file.bin", b"data")


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    path = write_atomic(tmp_path / "file.bin", b"abc" * 100_000)
    assert sha256_file(path) == sha256_bytes(b"abc" * 100_000)
    with pytest.raises(MissingInput, match="There is no file"):
        sha256_file(tmp_path / "absent")


def test_a_folder_takes_its_place_whole(tmp_path):
    place = tmp_path / "s1"
    with atomic_folder(place) as folder:
        (folder / "a").write_text("first")
        assert not place.exists()
    with pytest.raises(RuntimeError), atomic_folder(place) as folder:
        assert list(folder.iterdir()) == []
        (folder / "b").write_text("half")
        raise RuntimeError
    assert [path.name for path in place.iterdir()] == ["a"]
    with atomic_folder(place) as folder:
        (folder / "c").write_text("second")
    assert [path.name for path in place.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_killed_process_left_is_emptied(tmp_path):
    left = tmp_path / ".s1.part"
    left.mkdir()
    (left / "torn").touch()
    with atomic_folder(tmp_path / "s1") as folder:
        (folder / "a").touch()
    assert [path.name for path in (tmp_path / "s1").iterdir()] == ["a"]


def test_two_at_the_same_place_take_turns(tmp_path):
    inside = []

    def fill(number):
        with atomic_folder(tmp_path / "s1") as folder:
            inside.append(number)
            assert len(inside) == 1
            (folder / "by").write_text(str(number))
            time.sleep(0.05)
            inside.clear()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(8)))
    assert len(list((tmp_path / "s1").iterdir())) == 1


def test_what_killed_writers_left_is_swept_and_what_living_ones_hold_stays(tmp_path):
    root = DataRoot(tmp_path)
    images, failures = tmp_path / "slide_images", tmp_path / "failures" / "cell_masks"
    for folder in (
        images / ".killed.part",
        images / ".swapped.old",
        images / ".between.old",
        images / "swapped",
        failures,
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"1")
    (images / ".killed.lock").write_bytes(b"")
    (images / ".image.xyz.part").write_bytes(b"half")
    checkpoint = tmp_path / "checkpoints" / "tissue_weights" / "v001" / ".checkpoint.pt.xyz.part"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / ".mine.part").write_bytes(b"a person's")
    with atomic_folder(images / "living") as being_filled:
        (being_filled / "file").write_bytes(b"2")
        assert root.sweep(older_than_s=3600) == 4
        assert (images / ".image.xyz.part").is_file(), "it is too young to be nobody's"
        assert root.sweep(older_than_s=-1) == 2
        assert not checkpoint.exists()
    names = sorted(path.name for path in images.iterdir())
    assert names == ["between", "living", "swapped"], "killed between two renames is put back"
    assert (images / "living" / "file").read_bytes() == b"2"
    assert (tmp_path / "inbox" / ".mine.part").is_file()
    assert root.sweep() == 0


def test_a_file_in_a_folder_that_is_just_being_swapped_is_waited_for(tmp_path, monkeypatch):
    (tmp_path / ".s1.old").mkdir()
    (tmp_path / ".s1.old" / "file").write_bytes(b"1")

    def swapped(seconds):
        (tmp_path / ".s1.old").rename(tmp_path / "s1")

    monkeypatch.setattr(files.time, "sleep", swapped)
    assert read_bytes(tmp_path / "s1" / "file") == b"1"
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "s2" / "file")
