"""Files and folders of a data root: the same on a disk and in a bucket, through failures and beside other writers."""

import importlib.util
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dermatome.errors import BadSetting, MissingInput, StorageFailed
from dermatome.storage import object_store
from dermatome.storage.files import (
    RECORD_FILE,
    changed_in,
    local_copy,
    names_below,
    names_in,
    read_all,
    read_bytes,
    remove,
    sha256_bytes,
    sha256_file,
    whole_file,
    whole_folder,
    write_whole,
)
from dermatome.storage.layout import DataRoot


def publish(root, text, *names, asset="cells", partition="s1"):
    with whole_folder(root.folder(asset, partition)) as folder:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / RECORD_FILE).write_text(f"record of {text}")


def contents(root, asset="cells", partition="s1", *names):
    with root.local(asset, partition, *names) as folder:
        assert folder.name == partition
        assert type(folder) is type(Path())
        return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def objects(root):
    """Everything there is in the bucket."""
    return sorted(object_store.sizes_below(root.path))


def test_files_are_read_as_they_were_written(any_root):
    path = any_root.path / "a" / "b.txt"
    assert write_whole(path, b"first") == path
    with whole_file(path) as file:
        file.write(b"second")
    assert read_bytes(path) == b"second"
    assert sha256_file(path) == sha256_bytes(b"second")
    with local_copy(path) as copy:
        assert (copy.name, copy.read_bytes()) == ("b.txt", b"second")
    assert read_all([path, any_root.path / "a" / "none"]) == [b"second", None]
    remove(path)
    remove(path)
    with pytest.raises(FileNotFoundError):
        read_bytes(path)
    with pytest.raises(MissingInput, match="There is no file"):
        sha256_file(path)


def test_a_file_whose_writer_fails_stays_as_it_was(any_root):
    path = any_root.path / "a" / "b.txt"
    write_whole(path, b"first")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_bytes(path) == b"first"


def test_names_are_listed_without_what_is_hidden(any_root):
    for name in ("f/b.txt", "f/a.txt", "f/.hidden", "f/g/c.txt", "f/.h/d.txt", "f2/e.txt"):
        write_whole(any_root.path / name, b"x")
    assert names_in(any_root.path / "f") == ["a.txt", "b.txt"]
    assert names_below(any_root.path / "f") == ["a.txt", "b.txt", "g/c.txt"]
    assert names_in(any_root.path / "none") == names_below(any_root.path / "none") == []


def test_changes_are_listed_at_the_time_they_came_whatever_the_file_says(any_root):
    for name in ("f/a.txt", "f/.hidden", "f/g/b.txt", "f/g/.hidden", "f/.h/c.txt", "f/g/h/d.txt", "f2/e.txt"):
        write_whole(any_root.path / name, b"x")
    if isinstance(any_root.path, Path):
        os.utime(any_root.path / "f" / "g" / "b.txt", (time.time() + 1e8,) * 2)
    assert list(changed_in(any_root.path / "f")) == ["a.txt"]
    found = changed_in(any_root.path / "f", folders=True)
    assert list(found) == ["a.txt", "g/b.txt"]
    assert all(abs(time.time() - at) < 600 for at in found.values())
    assert changed_in(any_root.path / "none") == changed_in(any_root.path / "none", folders=True) == {}


def test_files_of_a_folder_that_is_moved_changed_then(tmp_path):
    write_whole(tmp_path / "g" / "b.txt", b"x")
    before = changed_in(tmp_path, folders=True)["g/b.txt"]
    time.sleep(0.02)  # a file's times are those of the kernel's last tick
    (tmp_path / "inbox").mkdir()
    (tmp_path / "g").rename(tmp_path / "inbox" / "g")
    assert changed_in(tmp_path / "inbox", folders=True)["g/b.txt"] > before


def test_a_plain_folder_is_copied_as_a_whole(any_root):
    write_whole(any_root.annotations / "he-1" / "he.png", b"image")
    write_whole(any_root.annotations / "he-1" / "more" / "a.txt", b"a")
    with local_copy(any_root.annotations / "he-1") as folder:
        assert folder.name == "he-1"
        assert (folder / "he.png").read_bytes() == b"image"
        assert (folder / "more" / "a.txt").read_bytes() == b"a"


def test_a_partition_is_read_as_it_was_made(any_root):
    publish(any_root, "first", "a.txt", "images/b.txt")
    assert any_root.made("cells") == ["s1"]
    assert contents(any_root) == {"a.txt": "first", "images/b.txt": "first", RECORD_FILE: "record of first"}
    assert any_root.read("cells", "s1", "a.txt") == b"first"
    publish(any_root, "second", "a.txt")
    assert contents(any_root) == {"a.txt": "second", RECORD_FILE: "record of second"}


def test_a_failing_maker_leaves_what_was_there(any_root):
    publish(any_root, "first", "a.txt")
    with pytest.raises(RuntimeError), whole_folder(any_root.folder("cells", "s1")) as folder:
        assert list(folder.iterdir()) == []
        (folder / "a.txt").write_text("half")
        (folder / RECORD_FILE).write_text("half")
        raise RuntimeError
    assert contents(any_root)["a.txt"] == "first"


def test_what_is_not_made_is_missing(any_root):
    assert any_root.made("cells") == []
    with pytest.raises(MissingInput, match="stage before"):
        any_root.read("cells", "s1", "a.txt")


def test_two_makers_at_once_leave_one_whole_result(any_root):
    texts = [str(number) for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda text: publish(any_root, text, "a.txt", "b.txt"), texts))
    found = contents(any_root)
    assert found == {"a.txt": found["a.txt"], "b.txt": found["a.txt"], RECORD_FILE: f"record of {found['a.txt']}"}


@pytest.mark.parametrize("place", ["s3://", "s3://bucket/../x", "s3://bucket//x", "gs://bucket/x", "http://host/x"])
def test_a_place_that_is_none_is_said(place):
    with pytest.raises(BadSetting):
        DataRoot.at(place)


def test_a_missing_extra_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadSetting, match=r"pip install 'dermatome\[s3\]'"):
        DataRoot.at("s3://bucket/data")


def test_names_cannot_leave_the_root(any_root):
    for bad in ("../s1", "a/b", ".hidden"):
        with pytest.raises(StorageFailed, match="not usable as a file name"):
            any_root.folder("cells", bad)


def test_a_root_goes_to_another_process(any_root):
    publish(any_root, "first", "a.txt")
    assert contents(pickle.loads(pickle.dumps(any_root)))["a.txt"] == "first"


def test_a_root_that_can_be_written_is(any_root):
    any_root.check_writable()
    assert names_below(any_root.path) == []


def test_a_bucket_that_is_not_there_is_said(s3):
    with pytest.raises(StorageFailed, match=r"Could not write s3://no-such-bucket/data.*credentials"):
        DataRoot.at("s3://no-such-bucket/data").check_writable()


# What only a bucket has: each request may be the last one of a process that is killed.


class Killed(Exception):
    """The process ends here."""


def kill_after(monkeypatch, root, allowed):
    """Lets so many objects be put, and then ends the process."""
    real, put = type(root.path.fs)._call_s3, []

    async def call(self, method, *args, **kwargs):
        if method in ("put_object", "delete_objects"):
            if len(put) >= allowed:
                raise Killed
            put.append(kwargs.get("Key"))
        return await real(self, method, *args, **kwargs)

    monkeypatch.setattr(type(root.path.fs), "_call_s3", call)
    return put


@pytest.mark.parametrize("allowed", range(5))
def test_a_maker_killed_at_any_request_leaves_one_version_whole(bucket_root, monkeypatch, allowed):
    """Making `second` is four requests: two files, the record, and the earlier version deleted."""
    publish(bucket_root, "first", "a.txt", "b.txt")
    with monkeypatch.context() as patch:
        put = kill_after(patch, bucket_root, allowed)
        try:
            publish(bucket_root, "second", "a.txt", "b.txt")
            assert allowed == 4, "there was nothing to kill"
        except Killed:
            assert len(put) == allowed < 4
    text = "second" if allowed > 2 else "first"
    assert contents(bucket_root) == {"a.txt": text, "b.txt": text, RECORD_FILE: f"record of {text}"}
    publish(bucket_root, "third", "a.txt", "b.txt")
    assert contents(bucket_root)["a.txt"] == "third"


def test_what_killed_makers_left_goes_after_a_day(bucket_root, monkeypatch):
    publish(bucket_root, "first", "a.txt")
    with monkeypatch.context() as patch:
        kill_after(patch, bucket_root, 2)
        with pytest.raises(Killed):
            publish(bucket_root, "torn", "a.txt", "b.txt")
    publish(bucket_root, "second", "a.txt")
    assert len(objects(bucket_root)) == 4, "they may be a maker's at work"

    class Tomorrow:
        @staticmethod
        def now(zone):
            return datetime.now(zone) + timedelta(days=1, minutes=1)

    monkeypatch.setattr(object_store, "datetime", Tomorrow)
    publish(bucket_root, "third", "a.txt")
    assert len(objects(bucket_root)) == 2


def test_the_maker_whose_record_comes_last_wins_whole(bucket_root):
    """Both upload at the same time; the one that began first ends last."""
    slow_is_in, quick_is_done = threading.Event(), threading.Event()

    def slow():
        with whole_folder(bucket_root.folder("cells", "s1")) as folder:
            (folder / "a.txt").write_text("slow")
            (folder / RECORD_FILE).write_text("record of slow")
            slow_is_in.set()
            assert quick_is_done.wait(120)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow)
        assert slow_is_in.wait(120)
        publish(bucket_root, "quick", "a.txt", "b.txt")
        assert contents(bucket_root)["a.txt"] == "quick"
        quick_is_done.set()
        waiting.result()
    assert contents(bucket_root) == {"a.txt": "slow", RECORD_FILE: "record of slow"}
    assert len(objects(bucket_root)) == 2


def test_a_reader_whose_version_goes_meanwhile_gets_the_next(bucket_root, monkeypatch):
    publish(bucket_root, "first", "a.txt")
    real, made = object_store._copy, []

    def copy(source, folder, names):
        if not made:
            made.append(publish(bucket_root, "second", "a.txt"))
        return real(source, folder, names)

    monkeypatch.setattr(object_store, "_copy", copy)
    assert contents(bucket_root, "cells", "s1", "a.txt") == {"a.txt": "second", RECORD_FILE: "record of second"}


def test_only_the_named_files_are_copied_and_a_missing_one_is_said(bucket_root):
    publish(bucket_root, "first", "a.txt", "b.txt")
    assert set(contents(bucket_root, "cells", "s1", "b.txt")) == {"b.txt", RECORD_FILE}
    with pytest.raises(MissingInput, match=r"lacks its file c\.txt: make it again"):
        contents(bucket_root, "cells", "s1", "c.txt")


def test_a_copy_larger_than_the_disk_is_refused(bucket_root, monkeypatch):
    publish(bucket_root, "first", "a.txt")
    monkeypatch.setattr(object_store, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageFailed, match="set TMPDIR to a larger disk"):
        contents(bucket_root)


def test_an_object_whose_name_leaves_the_folder_is_refused(bucket_root):
    folder = bucket_root.annotations / "he-1"
    folder.fs.pipe_file(f"{folder.path}/../../../evil.txt", b"x")
    with pytest.raises(StorageFailed, match="no file can be called"), local_copy(folder):
        pass
