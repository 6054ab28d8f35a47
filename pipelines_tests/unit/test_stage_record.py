import math

import numpy as np
import pytest

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, file_facts, fingerprint, read_record, require_record, write_record
from pipelines_tests.records import record_of


def record(**changes):
    given = {
        "outcome": "cells", "inputs": {"slide_images": "a"}, "settings": {"flow_threshold": 0.4, "tiles": (1, 2)},
        "values": {"cells": 12, "mpp": 0.5, "mpp_source": "declared", "resumed": False}, "seconds": {"segment": 1.5},
        "checks": (Check("cell_density", True, "fine", {"cells_per_mm2": 5000.0}),),
    }  # fmt: skip
    return record_of("cell_masks", "s1", **(given | changes))


def test_a_record_comes_back_as_it_was(tmp_path):
    path = tmp_path / "record.json"
    first = record()
    write_record(path, first)
    again = read_record(path)
    assert again.values == first.values
    assert again.checks == first.checks
    assert again.made_at == first.made_at
    assert again.settings == {"flow_threshold": 0.4, "tiles": [1, 2]}
    assert again.libraries["numpy"]


def test_values_keep_their_type_and_numbers_of_numpy_and_what_is_not_finite_are_kept(tmp_path):
    values = {"cells": np.int64(3), "share": np.float32(0.5), "none": None, "nan": math.nan, "one": 1.0, "yes": True}
    write_record(tmp_path / "record.json", record(values=values))
    again = read_record(tmp_path / "record.json").values
    assert math.isnan(again.pop("nan"))
    assert [(name, type(value), value) for name, value in again.items()] == [
        ("cells", int, 3), ("share", float, 0.5), ("none", type(None), None), ("one", float, 1.0), ("yes", bool, True),
    ]  # fmt: skip


def test_nothing_is_no_record_and_rubbish_is_an_error(tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path) is None
    path.write_bytes(b"{rubbish")
    with pytest.raises(StorageFailed, match="delete its folder"):
        read_record(path)


def test_a_missing_stage_says_what_to_materialize(tmp_path):
    with pytest.raises(MissingInput, match="s1 has no slide_images yet: materialize slide_images"):
        require_record(DataRoot(tmp_path), "slide_images", "s1")


@pytest.mark.parametrize(("harm", "said"), [(b"xbc", "has another content"), (b"ab", "has 2 bytes, not 3")])
def test_a_file_that_was_changed_is_not_read_by_the_next_stage(tmp_path, harm, said):
    root = DataRoot(tmp_path)
    folder = root.folder("cell_masks", "s1")
    folder.mkdir(parents=True)
    for name in ("cells.parquet", "figure.png"):
        (folder / name).write_bytes(b"abc")
    write_record(folder / "record.json", record(files=file_facts(folder)))
    (folder / "figure.png").write_bytes(b"other")
    assert require_record(root, "cell_masks", "s1", "cells.parquet").partition == "s1"
    (folder / "cells.parquet").write_bytes(harm)
    with pytest.raises(StorageFailed, match=rf"cells.parquet in the cell_masks of s1 {said}: materialize cell_masks"):
        require_record(root, "cell_masks", "s1", "cells.parquet")


def test_the_fingerprint_changes_with_anything_that_decides_numbers():
    base = fingerprint("1", {"a": "x"}, {"threshold": 1})
    assert base == fingerprint("1", {"a": "x"}, {"threshold": 1})
    others = {
        fingerprint("2", {"a": "x"}, {"threshold": 1}),
        fingerprint("1", {"a": "y"}, {"threshold": 1}),
        fingerprint("1", {"a": "x"}, {"threshold": 2}),
    }
    assert len(others | {base}) == 4
