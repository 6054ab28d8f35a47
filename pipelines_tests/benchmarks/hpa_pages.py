"""Parsing HPA gene pages, against lxml reading the same bytes and keeping nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines_tests.benchmarks.rows import Row, share_of_rate
from pipelines_tests.benchmarks.samples import gene_pages
from pipelines_tests.benchmarks.timing import take_turns


def hpa_pages(toy: bool) -> Iterator[Row]:
    """Megabytes of pages a second."""
    from lxml import etree

    from dermatome.hpa.pages import parse_page

    with gene_pages(toy) as (paths, which):
        megabytes = sum(path.stat().st_size for path in paths) / 1e6

        def baseline(path: Path) -> int:
            return sum(1 for _ in etree.iterparse(str(path)))

        seconds = take_turns(
            {
                "ours": lambda: [parse_page(path) for path in paths],
                "baseline": lambda: [baseline(path) for path in paths],
                "tree": lambda: [etree.parse(str(path)) for path in paths],
            },
            rounds=2 if toy else 15,
        )
    yield share_of_rate(
        "parsing HPA pages into image records",
        "lxml iterparse alone of the same files",
        megabytes / seconds["ours"],
        megabytes / seconds["baseline"],
        "MB/s",
        at_least=0.5,
        baseline=f"lxml's whole tree in C, no Python for each element: {megabytes / seconds['tree']:.0f} MB/s",
        note=f"{len(paths)} {which}, {megabytes:.1f} MB",
    )
