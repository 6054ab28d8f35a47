import pytest

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import (
    Check,
    StageRecord,
    content_version,
    fingerprint,
    read_record,
    require_record,
    write_record,
)


def record(**changes):
    given = {
        "asset": "cell_masks",
        "partition": "s1",
        "outcome": "cells",
        "data_version": "v",
        "fingerprint": "f",
        "code_version": "1",
        "inputs": {"slide_images": "a"},
        "settings": {"flow_threshold": 0.4, "tiles": (1, 2)},
        "values": {"cells": 12, "mpp": 0.5, "mpp_source": "declared", "resumed": False},
        "seconds": {"segment": 1.5},
        "checks": (Check("cell_density", True, "fine", {"cells_per_mm2": 5000.0}),),
    }
    return StageRecord(**(given | changes))


def test_a_record_comes_back_as_it_was(tmp_path):
    path = tmp_path / "record.parquet"
    first = record()
    write_record(path, first)
    again = read_record(path)
    assert again.values == first.values
    assert again.checks == first.checks
    assert again.made_at == first.made_at
    assert again.settings == {"flow_threshold": 0.4, "tiles": [1, 2]}
    assert again.libraries["numpy"]


def test_nothing_is_no_record_and_rubbish_is_an_error(tmp_path):
    path = tmp_path / "record.parquet"
    assert read_record(path) is None
    path.write_bytes(b"PAR1 rubbish")
    with pytest.raises(StorageFailed, match="delete its folder"):
        read_record(path)


def test_a_missing_stage_says_what_to_materialize(tmp_path):
    with pytest.raises(MissingInput, match="s1 has no slide_images yet: materialize slide_images"):
        require_record(DataRoot(tmp_path), "slide_images", "s1")


def test_the_fingerprint_changes_with_anything_that_decides_numbers():
    base = fingerprint("1", {"a": "x"}, {"threshold": 1})
    assert base == fingerprint("1", {"a": "x"}, {"threshold": 1})
    others = {
        fingerprint("2", {"a": "x"}, {"threshold": 1}),
        fingerprint("1", {"a": "y"}, {"threshold": 1}),
        fingerprint("1", {"a": "x"}, {"threshold": 2}),
    }
    assert len(others | {base}) == 4


def test_content_version_does_not_confuse_parts():
    assert content_version([b"ab", b"c"]) != content_version([b"a", b"bc"])
