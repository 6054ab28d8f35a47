"""Results outside a data root: the files of many slides in one folder, named after their slide, each with a record.

`<stem>.json` is a record as in a data root: the sha256 of image and weights, scale and its source, background,
settings, versions, checks, and the size and sha256 of each file of the result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dermatome import __version__
from dermatome.errors import BadSetting, StorageFailed
from dermatome.pipeline.stage_files import synthetic_warning
from dermatome.slides.slide import Slide
from dermatome.storage.record import StageRecord, StageResult, file_facts, fingerprint, read_record, write_record


def slide_inputs(slide: Slide, **others: str) -> dict[str, str]:
    """The inputs that a slide's result is computed from: the image, its scale, and the hashes ``others``."""
    return {"image_sha256": slide.sha256, "scale": f"{slide.mpp:g} {slide.mpp_source}"} | others


def find_result(folder: Path, stem: str, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> StageRecord | None:
    """The record of an earlier result, if it has the same inputs, settings and version and its files exist."""
    record = _record(folder, stem)
    if record is None or record.fingerprint != fingerprint(__version__, inputs, settings):
        return None
    files = {folder / name: facts.bytes for name, facts in record.files.items()}
    there = all(path.is_file() and path.stat().st_size == size for path, size in files.items())
    return record if files and there else None


def result_warning(folder: Path, stem: str) -> str:
    """The warning that a result carries about its networks; see :func:`synthetic_warning`."""
    record = _record(folder, stem)
    return "" if record is None else synthetic_warning(record.values)


def check_same_scale(folder: Path, slide: Slide) -> None:
    """Checks that the slide's result in ``folder``, if its record is there, was computed at the slide's scale.

    Raises:
        BadSetting: it was computed at another.
    """
    record = _record(folder, slide.name)
    stated = "" if record is None else record.inputs.get("scale", "").split(" ")[0]
    if stated not in ("", f"{slide.mpp:g}"):
        raise BadSetting(
            f"{folder / slide.name}.json states {stated} µm per pixel, and {slide.name} is read at {slide.mpp:g}: give "
            "both commands the same --mpp."
        )


def _record(folder: Path, stem: str) -> StageRecord | None:
    try:
        return read_record(folder / f"{stem}.json")
    except StorageFailed:  # a damaged file, or JSON of another program
        return None


def write_result(
    folder: Path,
    stem: str,
    asset: str,
    slide: str,
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
    write: Callable[[Path], StageResult],
) -> StageRecord:
    """Writes the files of a result and, last, its record `<stem>.json`. Files of an earlier result are replaced.

    ``write`` writes files, whose names begin with ``stem``, into the folder that it is given.
    """
    path = folder / f"{stem}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as temporary:
            found = write(Path(temporary))
            record = StageRecord.of(
                found, code_version=__version__, inputs=inputs, settings=settings,
                asset=asset, partition=slide, files=file_facts(Path(temporary)),
            )  # fmt: skip
            path.unlink(missing_ok=True)  # a result without its record is recomputed
            for name in record.files:
                (Path(temporary) / name).replace(folder / name)
    except OSError as error:
        raise StorageFailed(f"{folder} cannot be written to ({error.strerror}): choose another folder.") from error
    write_record(path, record)
    return record
