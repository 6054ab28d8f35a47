"""The table of slide sources: `slide_sources/sources.parquet` of the data root says where each slide's image is.

Locations in the data root are stored relative to it, so that the data root can be moved.

All slides share one table, as writing one file for each of 100,000 slides would take a quarter of an hour. A writer
holds a lock while it merges its rows into the table and replaces it; readers need no lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermatome.errors import MissingInput, StorageFailed
from dermatome.slides.source import SlideSource
from dermatome.storage.files import locked
from dermatome.storage.record import write_table

TABLE = "sources.parquet"
_SCHEMA = pa.schema([(name, pa.string()) for name in ("slide", "origin", "location", "gene", "ensembl_id")])


def write_sources(folder: Path, sources: Iterable[SlideSource]) -> None:
    """Writes the sources of slides and replaces earlier ones; of several sources of a slide, the last one counts.

    Raises:
        StorageFailed: the disk is full, the folder is not writable, or the table there is damaged.
    """
    new = {source.slide: vars(source) | {"location": source.stored_location(folder.parent)} for source in sources}
    if not new:
        return
    with locked(folder / f".{TABLE}.lock"):
        table = _read(folder)
        kept = table.filter(pc.invert(pc.is_in(table["slide"], value_set=pa.array(list(new), pa.string()))))
        write_table(folder / TABLE, pa.concat_tables([kept, pa.Table.from_pylist(list(new.values()), _SCHEMA)]))


def read_sources(folder: Path, slides: Collection[str] | None = None) -> dict[str, SlideSource]:
    """Reads the sources of slides: all, or those of ``slides`` that are registered.

    Raises:
        StorageFailed: the table is damaged.
    """
    table = _read(folder)
    if slides is not None:
        table = table.filter(pc.is_in(table["slide"], value_set=pa.array(list(slides), pa.string())))
    found = (SlideSource(**row) for row in table.to_pylist())
    # An absolute path joined to the data root stays unchanged.
    return {s.slide: s if s.origin == "hpa" else replace(s, location=str(folder.parent / s.location)) for s in found}


def source_of(slide: str, sources: Mapping[str, SlideSource]) -> SlideSource:
    """The source of a slide.

    Raises:
        MissingInput: the slide is not registered.
    """
    try:
        return sources[slide]
    except KeyError as error:
        raise MissingInput(
            f"The source of the image of {slide} is not registered: put its file into the inbox again for the sensor "
            "image_folder or, for an image of HPA, materialize hpa_images for its gene with new_hpa_images turned on."
        ) from error


def _read(folder: Path) -> pa.Table:
    path = folder / TABLE
    try:
        return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(_SCHEMA.names).cast(_SCHEMA)
    except FileNotFoundError:
        return _SCHEMA.empty_table()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageFailed(
            f"The table of slide sources {path} is damaged ({error}): delete it, put the inbox's files there again "
            "and materialize hpa_images again with the sensors turned on."
        ) from error
