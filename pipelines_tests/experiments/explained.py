"""Computes random values of a data root's tables again, and says how many are equal and how long one takes.

python -m pipelines_tests.experiments.explained dermatome_data --values 1000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dermatome.skin.explain import TABLES, Part, explain_value
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record

KEYS = {"layer": "layer", "zone": "zone", "relative_depth": "relative_from", "cell": "cell_id"}
OF_SLIDES = ("layers", "layer_um", "h_score", "positive_share", "pattern", "detached_um2", "i0_red", "i0_green")


def tables(root: DataRoot) -> Iterator[tuple[str, Part, list[object], list[str]]]:
    """Slide, part, rows and columns of every table of measured slides."""
    for slide in root.partitions("epidermis_layers"):
        record = read_record(root.record("epidermis_layers", slide))
        if record is None or record.outcome != "measured":
            continue
        yield slide, "epidermis", [None], list(OF_SLIDES)
        for part, asset, file in [
            *((part, "epidermis_layers", file) for part, file in TABLES.items()),
            ("cell", "cell_masks", "cells.parquet"),
        ]:
            table = pd.read_parquet(root.folder(asset, slide) / file).drop(columns="slide")
            yield slide, part, table[KEYS[part]].tolist(), list(table.columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the counts; the exit code is 1 unless all values are equal."""
    parser = argparse.ArgumentParser(prog="python -m pipelines_tests.experiments.explained", description=__doc__)
    parser.add_argument("data", type=Path, help="data root")
    parser.add_argument("--values", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    root, random = DataRoot.at(str(given.data)), np.random.default_rng(given.seed)
    found, equal, seconds, cpu_seconds = list(tables(root)), Counter[str](), [], []
    tried = Counter[str]()
    for _ in range(given.values):
        slide, part, rows, columns = found[random.integers(len(found))]
        row, column = rows[random.integers(len(rows))], columns[random.integers(len(columns))]
        started, cpu_started = time.perf_counter(), time.process_time()
        value = explain_value(root, slide, column, part, row)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        tried[part] += 1
        equal[part] += value.equal
        if not value.equal:
            print(f"{slide} {part} {row} {column}: {value.stored!r} and {value.recomputed!r}")
    for part, count in sorted(tried.items()):
        print(f"{part}: {equal[part]} of {count} equal")
    print(f"{equal.total()} of {given.values} equal")
    for what, each in {"wall": seconds, "CPU": cpu_seconds}.items():
        median, high, longest = np.percentile(each, (50, 95, 100))
        print(f"{what}: {median:.2f} s a value, p95 {high:.2f} s, longest {longest:.2f} s")
    return 0 if equal == tried else 1


if __name__ == "__main__":
    sys.exit(main())
