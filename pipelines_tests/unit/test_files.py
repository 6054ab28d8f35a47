"""Atomic files and folders: readers, second writers and killed writers."""

import errno
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermatome.errors import BadSetting, StorageFailed
from dermatome.storage import files
from dermatome.storage.files import (
    atomic_file,
    atomic_folder,
    changed_in,
    folders_in,
    names_in,
    read_bytes,
    safe_id,
    sweep,
    write_atomic,
)
from dermatome.storage.layout import DataRoot


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "../x", "a/b", "a\\b", "-a", ".hidden", "a b", "é", "a" * 201, "a\n", "<b>", "a](b", "`x`"]
)
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


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.bin"
    for before in (None, b"first"):
        if before is not None:
            assert write_atomic(target, before) == target
        with pytest.raises(RuntimeError), atomic_file(target) as file:
            file.write(b"half")
            raise RuntimeError
        found = {path.name: path.read_bytes() for path in target.parent.iterdir()}
        assert found == ({} if before is None else {"file.bin": before})


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="No space left.*free or enlarge the disk"):
        write_atomic(tmp_path / "file.bin", b"data")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageFailed):
        write_atomic(tmp_path / "taken" / "file.bin", b"data")


# Folders: on file systems that can exchange two folders in one step, and on those that cannot.


@pytest.fixture(params=[True, False], ids=["exchanged", "renamed twice"])
def exchange(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)


def publish(place, text, *names):
    with atomic_folder(place) as folder:
        for name in names or ("a",):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


def contents(place):
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_as_a_unit(tmp_path, exchange):
    place = tmp_path / "s1"
    with atomic_folder(place) as folder:
        (folder / "a").write_text("first")
        assert not place.exists()
    publish(place, "second", "b", "images/c")
    assert contents(place) == {"b": "second", "images/c": "second"}
    with pytest.raises(RuntimeError), atomic_folder(place) as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("half")
        raise RuntimeError
    assert contents(place) == {"b": "second", "images/c": "second"}
    assert list(tmp_path.iterdir()) == [place]


def test_two_writers_of_one_folder_take_turns(tmp_path, exchange):
    inside = []

    def fill(number):
        with atomic_folder(tmp_path / "s1") as folder:
            inside.append(number)
            assert len(inside) == 1
            (folder / "by").write_text(str(number))
            time.sleep(0.02)
            inside.clear()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["s1"]


def test_a_reader_finds_a_complete_folder_at_every_moment_of_a_replacement(tmp_path):
    place, done = tmp_path / "s1", threading.Event()
    publish(place, "0")

    def replace():
        for number in range(1, 100):
            publish(place, str(number))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    reads = 0
    while not done.is_set():
        assert (place / "a").read_text().isdigit()
        reads += 1
    writer.join()
    assert reads > 10


def in_another_process(work):
    """Runs ``work`` in a forked process and returns its exit code."""
    if (process := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize(
    ("call", "at"), [("fill", 1), *((call, n) for call in ("rename", "rmtree") for n in (1, 2, 3))]
)
def test_a_killed_writer_leaves_one_complete_folder_and_no_lock(tmp_path, exchange, call, at):
    place = tmp_path / "s1"
    publish(place, "first", "a", "b")

    def killed_after(function):
        calls = []

        def counted(*args, **options):
            result = function(*args, **options)
            calls.append(args)
            if len(calls) == at:
                os._exit(9)
            return result

        return counted

    def write():
        if call == "rename":
            Path.rename = killed_after(Path.rename)
        elif call == "rmtree":
            shutil.rmtree = killed_after(shutil.rmtree)
        with atomic_folder(place) as folder:
            (folder / "a").write_text("second")
            if call == "fill":
                os._exit(9)
            (folder / "b").write_text("second")

    in_another_process(write)
    sweep(tmp_path, 0)
    found = contents(place)
    assert found in ({"a": "first", "b": "first"}, {"a": "second", "b": "second"})
    publish(place, "third", "a")
    assert contents(place) == {"a": "third"}
    assert list(tmp_path.iterdir()) == [place]


def test_what_killed_writers_left_is_swept_and_what_living_ones_hold_stays(root):
    images, failures = root.path / "slide_images", root.path / "failures" / "cell_masks"
    for name in (".killed.part", ".swapped.old", ".between.old", "swapped"):
        write_atomic(images / name / "file", b"1")
    write_atomic(failures / "s1.json", b"1")
    (images / ".killed.lock").write_bytes(b"")
    (images / ".image.xyz.part").write_bytes(b"half")
    checkpoint = root.path / "checkpoints" / "tissue_weights" / "v001" / ".checkpoint.pt.xyz.part"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half")
    write_atomic(root.inbox / ".mine.part", b"a user's")
    with atomic_folder(images / "living") as being_filled:
        (being_filled / "file").write_bytes(b"2")
        assert root.sweep(older_than_s=3600) == 4
        assert (images / ".image.xyz.part").is_file(), "it may belong to a living writer"
        assert root.sweep(older_than_s=-1) == 2
        assert not checkpoint.exists()
    names = sorted(path.name for path in images.iterdir())
    assert names == ["between", "living", "swapped"], "a folder whose writer was killed between two renames is put back"
    assert (images / "living" / "file").read_bytes() == b"2"
    assert (root.inbox / ".mine.part").is_file()
    assert root.sweep() == 0


def test_a_file_in_a_folder_that_is_being_replaced_is_waited_for(tmp_path, monkeypatch):
    write_atomic(tmp_path / ".s1.old" / "file", b"1")
    monkeypatch.setattr(files.time, "sleep", lambda seconds: (tmp_path / ".s1.old").rename(tmp_path / "s1"))
    assert read_bytes(tmp_path / "s1" / "file") == b"1"
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "s2" / "file")


def test_links_that_lead_nowhere_are_neither_files_nor_folders(tmp_path):
    (tmp_path / "slide.jpg").write_bytes(b"")
    (tmp_path / "to-itself.jpg").symlink_to("to-itself.jpg")
    (tmp_path / "to-nothing.jpg").symlink_to("gone.jpg")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "loop.dcm").symlink_to("loop.dcm")
    assert names_in(tmp_path) == ["slide.jpg"]
    assert folders_in(tmp_path) == ["folder"]
    assert list(changed_in(tmp_path, folders=True)) == ["slide.jpg"]


def test_an_address_is_not_a_data_root():
    with pytest.raises(BadSetting, match=r"mount it as a folder"):
        DataRoot.at("s3://bucket/data")
