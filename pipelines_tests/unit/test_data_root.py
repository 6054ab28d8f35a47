"""The layout of a data root."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from dermatome.errors import BadSetting, StorageFailed
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, read_record, write_table
from dermatome.storage.upgrade import upgrade


def test_an_address_is_not_a_data_root():
    with pytest.raises(BadSetting, match=r"mount it as a folder"):
        DataRoot.at("s3://bucket/data")


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
