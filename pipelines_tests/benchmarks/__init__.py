"""Benchmarks: each row is a ratio from one run, with a baseline beside it; ``make bench`` writes one table of them.

What belongs here: what says how fast something is, or how much memory it takes. No test asserts on a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines_tests.benchmarks.rows import Row

BENCHMARKS = {
    "tiled_inference": "inference", "epidermis_masks": "masks", "cells": "cells", "dagster_cost": "dagster_cost",
    "slide_keys_sqlite": "slide_keys", "slide_keys_postgres": "slide_keys", "training_loading": "training",
    "hpa_pages": "hpa_pages", "memory": "memory", "memory_cells": "memory", "gpu": "gpu", "atlas": "atlas",
    "warehouse": "warehouse", "ray_workers": "ray_workers", "study": "study",
}  # fmt: skip
"""The module of each benchmark, in the table's order: a function of its name, ``(toy: bool) -> Iterable[Row]``."""


def measure(name: str, toy: bool) -> Iterable[Row]:
    """The rows of a benchmark; at toy size it takes seconds and measures nothing."""
    rows: Iterable[Row] = getattr(import_module(f"{__name__}.{BENCHMARKS[name]}"), name)(toy)
    return rows
