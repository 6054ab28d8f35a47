"""Where the slides' images are, in tables below ``slide_sources/``: a new one for each time slides are registered.

A file for each slide would take a quarter of an hour for 100,000, most of it waiting for the disk. A table is written
whole and found by nobody before; a later one counts more. Their names begin with a number higher than those there were,
so that no clock decides. Where they have become many, all is put into another one, and then they are deleted: at every
moment, whoever reads all tables finds every slide, also while others register theirs. No table is ever written over: it
could hold what another process has put into it, and only there.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermatome.errors import MissingInput, StorageFailed
from dermatome.slides.source import SlideSource
from dermatome.storage.files import names_in, read_all
from dermatome.storage.record import write_table

_NAME = re.compile(r"(\d{8})-[0-9a-f]{8}\.parquet")
_SCHEMA = pa.schema([(name, pa.string()) for name in ("slide", "origin", "location", "gene", "ensembl_id")])
_TABLES = 64
_TRIES = 5


def write_sources(folder: Path, sources: Iterable[SlideSource]) -> None:
    """Writes where slides come from; what was known of them before counts no more.

    Args:
        folder: `DataRoot.slide_sources`.
        sources: of one slide's, the last counts.

    Raises:
        StorageFailed: the disk is full or the folder not writable, or a table there is damaged.
    """
    rows = [vars(source) for source in {source.slide: source for source in sources}.values()]
    if not rows:
        return
    names = _tables(folder)
    number = 1 + max(map(_number, names), default=0)
    write_table(folder / _new_name(number), pa.Table.from_pylist(rows, _SCHEMA))
    if len(names) >= _TABLES:
        _put_together(folder)


def read_sources(folder: Path, slides: Collection[str] | None = None) -> dict[str, SlideSource]:
    """Where slides come from.

    Args:
        folder: `DataRoot.slide_sources`.
        slides: the slides asked for; all where None. Those that nobody registered are left out.

    Raises:
        StorageFailed: a table is damaged.
    """
    _, table = _read(folder)
    if slides is not None:
        table = table.filter(pc.is_in(table["slide"], value_set=pa.array(list(slides), pa.string())))
    return {row["slide"]: SlideSource(**row) for row in table.to_pylist()}


def source_of(slide: str, sources: Mapping[str, SlideSource]) -> SlideSource:
    """Where a slide comes from, of those that were read.

    Raises:
        MissingInput: nobody registered it.
    """
    try:
        return sources[slide]
    except KeyError as error:
        raise MissingInput(
            f"Nobody has said where the image of {slide} is: put its file into the inbox again for the sensor "
            "image_folder or, for an image of HPA, materialize hpa_images for its gene with new_hpa_images turned on."
        ) from error


def _new_name(number: int) -> str:
    return f"{number:08d}-{uuid.uuid4().hex[:8]}.parquet"


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _tables(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if _NAME.fullmatch(name)]


def _read(folder: Path) -> tuple[list[str], pa.Table]:
    """The names of the tables, and their rows: the earlier ones first."""
    for _ in range(_TRIES):
        names = _tables(folder)
        found = read_all([folder / name for name in names])
        # One that is gone was put into a later one, which may not have been listed.
        if None not in found:
            break
    else:
        raise StorageFailed(f"The tables in {folder} are replaced faster than they can be read: run this again.")
    tables = [_parsed(folder / name, data or b"") for name, data in zip(names, found, strict=True)]
    return names, pa.concat_tables(tables) if tables else _SCHEMA.empty_table()


def _parsed(path: Path, data: bytes) -> pa.Table:
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageFailed(
            f"The table of slide sources {path} is damaged ({error}): delete it, put the inbox's files there again and "
            "materialize hpa_images again with the sensors turned on."
        ) from error


def _put_together(folder: Path) -> None:
    """Puts the rows of all tables into another one of the latest's number, then deletes those that were read."""
    names, table = _read(folder)
    latest = {row["slide"]: row for row in table.to_pylist()}
    write_table(folder / _new_name(_number(names[-1])), pa.Table.from_pylist(list(latest.values()), _SCHEMA))
    for name in names:
        (folder / name).unlink(missing_ok=True)
