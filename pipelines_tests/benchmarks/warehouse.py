"""The metrics store of a whole study: built from the files of 108,000 slides, and refreshed after 100 new ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dermatome.storage.layout import DataRoot
from dermatome.storage.record import write_table
from dermatome.warehouse.tables import TABLES
from pipelines_tests.benchmarks.rows import Row, below
from pipelines_tests.benchmarks.timing import run_alone
from pipelines_tests.records import put_record

CELLS, LAYERS = 500, 8
STAGES = ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers")
_ROWS = {"cells": CELLS, "cell_layers": CELLS, "layers": LAYERS, "relative_depth": 10, "zones": 3}
_EXAMPLES = 20
"""Number of slides whose files are written out; the others are copies of these under other names."""
_GB_IN_MIB = 2**20 / 1e9


def warehouse(toy: bool) -> Iterator[Row]:
    """Building and refreshing, each in a process of its own."""
    slides, new = (40, 2) if toy else (108_000, 100)
    with tempfile.TemporaryDirectory(prefix="dermatome-warehouse-") as folder:
        files = _files_of(Path(folder) / "examples")
        root = Path(folder) / "data"
        _copy(files, root, 0, slides)
        steps = {f"built from the files of {slides:,} slides": (run_alone(build, str(root), timeout_s=3000), 600.0)}
        _copy(files, root, slides, slides + new)
        steps[f"refreshed after {new} new slides"] = run_alone(build, str(root), timeout_s=3000), 20.0
    for step, (done, at_most_s) in steps.items():
        yield below(
            f"metrics store {step}", done.value["seconds"], "s", at_most=at_most_s,
            note=f"4 records and {len(_ROWS)} tables a slide, {done.value['cells']:,} cells, {done.value['read']:,} "
            f"files read; memory {done.peak_mib * _GB_IN_MIB:.1f} GB",
        )  # fmt: skip


def build(folder: str) -> dict[str, Any]:
    """Builds the store of a data root."""
    import time

    from dermatome.warehouse.store import build_store

    start = time.perf_counter()
    summary = build_store(DataRoot(Path(folder)))
    assert not summary.unreadable
    return {"seconds": time.perf_counter() - start, "cells": summary.rows["cells"], "read": summary.read}


def _files_of(folder: Path) -> list[dict[str, bytes]]:
    """The content of each file of some slides, by its path with ``{}`` for the slide; tables have all their columns."""
    import duckdb

    root, rng = DataRoot(folder), np.random.default_rng(0)
    found = []
    for number in range(_EXAMPLES):
        slide = f"s{number}"
        for asset in STAGES:
            put_record(root, asset, slide, values={"mpp": 0.5, "cells": CELLS})
        for name, rows in _ROWS.items():
            table = TABLES[name]
            with duckdb.connect() as connection:
                connection.execute(f"create table t ({table.columns})")
                schema = connection.sql("from t").to_arrow_table().schema
            columns = [
                pa.array([slide] * rows if pa.types.is_string(kind) else rng.integers(1, 100, rows)).cast(kind)
                for kind in schema.types
            ]
            write_table(root.folder(table.asset, slide) / table.file, pa.table(columns, schema=schema))
        found.append(
            {
                f"{asset}/{{}}/{path.name}": path.read_bytes()
                for asset in STAGES
                for path in root.folder(asset, slide).iterdir()
            }
        )
    return found


def _copy(files: list[dict[str, bytes]], root: Path, first: int, last: int) -> None:
    """Writes the files of slides number ``first`` to ``last``, without waiting for the disk."""
    for number in range(first, last):
        for path, content in files[number % len(files)].items():
            place = root / path.format(f"slide{number:06}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
