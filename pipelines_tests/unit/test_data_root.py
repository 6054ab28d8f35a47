"""Files and folders of a data root, through failures and beside other writers and readers."""

import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from dermatome.errors import BadSetting, StorageFailed
from dermatome.storage import files
from dermatome.storage.files import atomic_folder, changed_in, folders_in, names_in, read_bytes, write_atomic
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import Check, read_record, write_table
from dermatome.storage.upgrade import upgrade


def publish(root, text, *names, asset="cells", partition="s1"):
    with atomic_folder(root.folder(asset, partition)) as folder:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / RECORD_FILE).write_text(f"record of {text}")


def contents(root, asset="cells", partition="s1"):
    folder = root.folder(asset, partition)
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_names_are_listed_without_what_is_hidden(root):
    for name in ("f/b.txt", "f/a.txt", "f/.hidden", "f/g/c.txt", "f/.h/d.txt", "f2/e.txt"):
        write_atomic(root.path / name, b"x")
    assert names_in(root.path / "f") == ["a.txt", "b.txt"]
    assert folders_in(root.path / "f") == ["g"]
    assert names_in(root.path / "none") == folders_in(root.path / "none") == []


def test_changes_are_listed_at_the_time_they_came_whatever_the_file_says(root):
    for name in ("f/a.txt", "f/.hidden", "f/g/b.txt", "f/g/.hidden", "f/.h/c.txt", "f/g/h/d.txt", "f2/e.txt"):
        write_atomic(root.path / name, b"x")
    os.utime(root.path / "f" / "g" / "b.txt", (time.time() + 1e8,) * 2)
    assert list(changed_in(root.path / "f")) == ["a.txt"]
    found = changed_in(root.path / "f", folders=True)
    assert list(found) == ["a.txt", "g/b.txt"]
    assert all(abs(time.time() - at) < 600 for at in found.values())
    assert changed_in(root.path / "none") == changed_in(root.path / "none", folders=True) == {}


def test_files_of_a_folder_that_is_moved_changed_then(tmp_path):
    write_atomic(tmp_path / "g" / "b.txt", b"x")
    before = changed_in(tmp_path, folders=True)["g/b.txt"]
    time.sleep(0.02)  # a file's times are those of the kernel's last tick
    (tmp_path / "inbox").mkdir()
    (tmp_path / "g").rename(tmp_path / "inbox" / "g")
    assert changed_in(tmp_path / "inbox", folders=True)["g/b.txt"] > before


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed twice"])
def test_a_partition_is_replaced_as_a_unit(root, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    publish(root, "first", "a.txt", "images/b.txt")
    assert root.partitions("cells") == ["s1"]
    assert contents(root) == {"a.txt": "first", "images/b.txt": "first", RECORD_FILE: "record of first"}
    publish(root, "second", "a.txt")
    assert contents(root) == {"a.txt": "second", RECORD_FILE: "record of second"}
    with pytest.raises(RuntimeError), atomic_folder(root.folder("cells", "s1")) as folder:
        assert list(folder.iterdir()) == []
        (folder / "a.txt").write_text("half")
        (folder / RECORD_FILE).write_text("half")
        raise RuntimeError
    assert contents(root)["a.txt"] == "second"
    texts = [str(number) for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda text: publish(root, text, "a.txt", "b.txt"), texts))
    found = contents(root)
    assert found == {"a.txt": found["a.txt"], "b.txt": found["a.txt"], RECORD_FILE: f"record of {found['a.txt']}"}
    assert [path.name for path in root.folder("cells").iterdir()] == ["s1"]


def test_a_reader_finds_a_complete_folder_at_every_moment_of_a_replacement(root):
    publish(root, "0", "a.txt")
    done = threading.Event()

    def replace():
        for number in range(1, 100):
            publish(root, str(number), "a.txt")
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    reads = 0
    while not done.is_set():
        assert read_bytes(root.folder("cells", "s1") / "a.txt").isdigit()
        assert root.partitions("cells") == ["s1"]
        reads += 1
    writer.join()
    assert reads > 10


def test_an_address_is_not_a_data_root():
    with pytest.raises(BadSetting, match=r"mount it as a folder"):
        DataRoot.at("s3://bucket/data")


def test_names_cannot_leave_the_root(root):
    for bad in ("../s1", "a/b", ".hidden"):
        with pytest.raises(StorageFailed, match="not usable as a file name"):
            root.folder("cells", bad)


def test_a_root_goes_to_another_process(root):
    publish(root, "first", "a.txt")
    assert contents(pickle.loads(pickle.dumps(root)))["a.txt"] == "first"


def test_a_root_that_can_be_written_is(root):
    root.check_writable()
    assert list(root.path.iterdir()) == []


def test_a_root_of_an_earlier_version_is_refused_until_it_is_upgraded(root):
    row = {
        "asset": "cell_masks", "partition": "s1", "outcome": "cells", "message": "", "data_version": "v",
        "fingerprint": "f", "code_version": "1", "run_id": "", "made_at": datetime(2026, 1, 2, tzinfo=UTC),
        "inputs": '{"slide_images": "a"}', "settings": "{}", "seconds": "{}", "libraries": "{}",
        "checks": '[{"name": "n", "passed": true, "description": "d", "values": {}}]', "value_cells": 12,
    }  # fmt: skip
    write_table(root.folder("cell_masks", "s1") / "record.parquet", pa.Table.from_pylist([row]))
    write_atomic(root.folder("cell_masks", "s2") / "record.parquet", b"damaged")
    write_atomic(root.path / "failures" / "cell_masks" / "s3.parquet", b"")
    with pytest.raises(StorageFailed, match="python -m dermatome.storage.upgrade"):
        DataRoot.at(str(root.path))
    assert upgrade(root.path) == (1, [root.folder("cell_masks", "s2")])
    again = DataRoot.at(str(root.path))
    found = read_record(again.record("cell_masks", "s1"))
    assert (found.fingerprint, found.values, found.inputs) == ("f", {"cells": 12}, {"slide_images": "a"})
    assert found.made_at == row["made_at"]
    assert found.checks == (Check("n", True, "d"),)
    assert [str(path.relative_to(root.path)) for path in root.path.rglob("*.*")] == ["cell_masks/s1/record.json"]
