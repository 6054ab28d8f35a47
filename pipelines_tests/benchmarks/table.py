"""One table of all rows, as Markdown and as Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines_tests.benchmarks.machine import Machine
from pipelines_tests.benchmarks.rows import Row

_NUMBERS = {"ours": pa.float64(), "reference": pa.float64(), "ratio": pa.float64(), "met": pa.bool_()}
_SCHEMA = pa.schema([(field.name, _NUMBERS.get(field.name, pa.string())) for field in fields(Row)])


def markdown(rows: Sequence[Row], machine: Machine) -> str:
    """The table as text, the machine above it."""
    head = "| what | against | ours | reference | ratio | target | met | baseline | note |"
    lines = ["# Benchmarks", "", machine.sentences(), "", head, "|---|---|--:|--:|--:|---|---|---|---|"]
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "**no**"
        cells = [row.name, row.against, _number(row.ours, row.unit), _number(row.reference, row.unit)]
        cells += [_number(row.ratio, ""), row.target or "–", met or "–", row.baseline, row.note]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], machine: Machine, folder: Path) -> tuple[Path, Path]:
    """Writes ``benchmarks.md`` and ``benchmarks.parquet``, which holds the machine as JSON in its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data = folder / "benchmarks.md", folder / "benchmarks.parquet"
    text.write_text(markdown(rows, machine))
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
    pq.write_table(table.replace_schema_metadata({"machine": json.dumps(asdict(machine))}), data)
    return text, data


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}".strip()
